"""wiig: match gradients with the client's true dropout masks (Well-informed Inverting Gradients, WIIG).

Idea: the upper reference: it shows whether the gradient still determines the image when the masks are known.
Equation: min over x of 1 - cos(g(x, true masks), g*) + l_tv TV(x), with g* the observed gradient.
Assumes: a single gradient, and a server that is given the masks (`also_knows = ["masks"]`): no real attacker has them.
    Without dropout and normalisation by batches it equals inverting-gradients.
Recovers: images and labels.
Fails: where inverting-gradients fails without dropout: searches with many minima.
Source: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.unknown_masks import GivenMasks
from attacks.core.matching.unknowns import Unknowns
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


@final
@attack(
    "wiig",
    summary="gradient matching with the true dropout masks (upper reference)",
    tier="baseline",
    paper="2208.06163",
    fidelity="reproduction",
    paper_steps=(
        ("search for the inputs under the client's masks", "Wiig.unknowns"),
        ("objective: cosine distance and total variation", "attacks.core.matching.attack.MatchingAttack.plan"),
    ),
    aliases=("well-informed-ig",),
)
class Wiig(MatchingAttack[MatchingConfig]):
    """Matches gradients under the granted masks."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"masks", "dropout-rates"})

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the granted masks."""
        granted = tuple(observation.masks[0] for observation in observations if observation.masks)
        return Unknowns((GivenMasks(victim_masks=granted),) if observations[0].sites else ())
