"""ig-train: match gradients in training mode, with newly sampled dropout masks in every iteration.

Idea: the obvious repair of inverting-gradients: the dummy network uses dropout as the client's does.
Equation: min over x of 1 - cos(g(x, fresh masks), g*) + l_tv TV(x), with g* the observed gradient.
Assumes: honest-but-curious server, a single gradient, dropout rates known; labels granted or inferred.
Recovers: images and labels. It is a baseline of the Dropout Inversion Attack.
Fails: wherever dropout matters: the client's masks are practically never sampled again, so the objective is noise.
Source: Geiping et al. 2020, arXiv 2003.14053 (the search); a reference in arXiv 2208.06163.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.unknown_masks import DrawnMasks
from attacks.core.matching.unknowns import Unknowns
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


@final
@attack(
    "ig-train",
    summary="gradient matching with fresh masks in every iteration",
    tier="baseline",
    paper="2003.14053",
    fidelity="variant",
    deviates="draws fresh dropout masks in every iteration",
    paper_steps=(("fresh masks in every iteration", "InvertingGradientsTrain.unknowns"),),
)
class InvertingGradientsTrain(MatchingAttack[MatchingConfig]):
    """Matches gradients under newly sampled dropout masks."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return sampled masks."""
        sites = observations[0].sites
        return Unknowns((DrawnMasks(sites=sites),) if sites else ())
