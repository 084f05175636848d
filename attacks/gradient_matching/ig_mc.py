"""ig-mc: match, in every iteration, the mean gradient over S sampled sets of dropout masks.

Idea: the mean over several samples is a stronger reference than the single sample of ig-train.
Equation: g = (1/S) sum over s of g(x, mask_s), compared with g* by 1 - cos(g, g*) + l_tv TV(x), with S = `draws`.
Assumes: honest-but-curious server, a single gradient, dropout rates known; labels granted or inferred.
Recovers: images and labels.
Fails: wherever dropout matters: it matches an expected sub-network, while the client used a single sub-network.
Source: Geiping et al. 2020, arXiv 2003.14053 (the search); arXiv 2208.06163 explains why averaging is not enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from pydantic import Field

from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.unknown_masks import DrawnMasks
from attacks.core.matching.unknowns import Unknowns
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


class InvertingGradientsMonteCarloConfig(MatchingConfig):
    """Settings of IG with averaged masks."""

    draws: int = Field(default=8, ge=1, description="sets of masks S in each iteration")


@final
@attack(
    "ig-mc",
    summary="gradient matching with the mean gradient over drawn masks",
    tier="baseline",
    paper="2003.14053",
    fidelity="variant",
    deviates="matches the mean gradient over drawn dropout masks",
    paper_steps=(("mean gradient over drawn masks", "InvertingGradientsMonteCarlo.unknowns"),),
)
class InvertingGradientsMonteCarlo(MatchingAttack[InvertingGradientsMonteCarloConfig]):
    """Samples S sets of masks in each iteration; the batch is repeated S times in one gradient."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return S sampled sets of masks."""
        sites = observations[0].sites
        return Unknowns((DrawnMasks(sites=sites, sets=self.config.draws),) if sites else ())
