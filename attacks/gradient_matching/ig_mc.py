"""IG with averaged masks: every iteration matches the mean gradient over S drawn sets of dropout masks.

A stronger baseline than one draw: it matches the expected sub-network, g = (1/S) sum_s g(x, mask_s), while the client
used a single one (arXiv 2208.06163 explains why that is not enough). Threat model: honest-but-curious server, one
gradient, dropout rates known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from pydantic import Field

from attacks.core.unknown_masks import DrawnMasks
from attacks.core.unknowns import Unknowns
from attacks.gradient_matching._engine import Search
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


class InvertingGradientsMonteCarloConfig(MatchingConfig):
    """Settings of IG with averaged masks."""

    draws: int = Field(default=8, ge=1, description="S, sets of masks an iteration")


@final
@attack("ig-mc", summary="gradient matching with the mean gradient over drawn masks", paper="2003.14053")
class InvertingGradientsMonteCarlo(MatchingAttack[InvertingGradientsMonteCarloConfig]):
    """S draws of masks an iteration: the batch stands S times in one gradient."""

    effort: ClassVar[Effort] = "reference"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise the inputs alone."""
        sites = observations[0].sites
        masks = (DrawnMasks(sites=sites, sets=self.config.draws),) if sites else ()
        return Search(Unknowns(masks), self.first(observations), self.smoothness)
