"""IG in training mode: every iteration matches with freshly drawn dropout masks.

The obvious repair of IG (arXiv 2003.14053), and a baseline of arXiv 2208.06163: the objective becomes noise, since the
client's masks are never drawn again. Threat model: honest-but-curious server, one gradient, dropout rates known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from attacks.core.unknown_masks import DrawnMasks
from attacks.core.unknowns import Unknowns
from attacks.gradient_matching._engine import Search
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


class InvertingGradientsTrainConfig(MatchingConfig):
    """Settings of IG in training mode."""


@final
@attack("ig-train", summary="gradient matching with fresh masks in every iteration", paper="2003.14053")
class InvertingGradientsTrain(MatchingAttack[InvertingGradientsTrainConfig]):
    """Forward passes in training mode."""

    effort: ClassVar[Effort] = "reference"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise the inputs alone."""
        sites = observations[0].sites
        masks = (DrawnMasks(sites=sites),) if sites else ()
        return Search(Unknowns(masks), self.first(observations), self.smoothness)
