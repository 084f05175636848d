"""Compensated mean: the mean of updates whose clients added noise, without the directions that are noise alone.

Paper: Wang et al. 2022 (INFOCOM), "Protect Privacy from Gradient Leakage Attack in Federated Learning": the server's
half of GradDefense. Noise of standard deviation s on a share of the entries, drawn anew by each of m clients, leaves
s sqrt(share / m) on every entry of their mean. It recovers accuracy, and what it recovers is no secret any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, final

from pydantic import Field
from torch import Tensor

from fedsim.core.compensation import compensated
from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution


class CompensatedMeanConfig(Config):
    """Settings of the compensated mean: those of the noise that clients add."""

    scale: float = Field(default=1e-2, ge=0, description="standard deviation of each client's noise")
    noised_share: float = Field(default=0.5, gt=0, le=1, description="share of the entries that a client disturbs")


@final
@aggregator("compensated-mean", summary="mean of noisy updates without directions of noise (GradDefense)")
class CompensatedMean(Aggregator[CompensatedMeanConfig]):
    """Every client counts the same. With no noise it is the plain mean."""

    needs_single_updates: ClassVar[bool] = False

    def weight(self, examples: int) -> int:
        """Return 1."""
        return 1

    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return the mean without the directions of noise, of which the expected number of clients was averaged."""
        total: Tensor | None = None
        count = 0
        for contribution in contributions:
            count += 1
            total = contribution.vector.clone() if total is None else total.add_(contribution.vector)
        assert total is not None, "called with at least one contribution"
        scale = self.config.scale * (self.config.noised_share / here.expected) ** 0.5
        return compensated(total.div_(count), scale)
