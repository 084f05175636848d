"""Mean: (sum over clients of n_k u_k) / (sum of n_k), with n_k the examples of client k, or 1 for every client.

Paper: McMahan et al. 2017, arXiv 1602.05629 (FedAvg). Not robust: one client moves it as far as it likes. It needs
the sum alone, so it works behind secure aggregation, where no single update is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, final

from pydantic import Field
from torch import Tensor

from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution


class MeanConfig(Config):
    """Settings of the mean."""

    weighted: bool = Field(default=True, description="count each update by its number of examples")


@final
@aggregator("mean", summary="mean of the updates, as in FedAvg and FedSGD", paper="1602.05629", aliases=("fedavg",))
class Mean(Aggregator[MeanConfig]):
    """A running sum in the dtype of the updates, divided once: memory of one vector for any number of clients.

    In float32 the relative rounding error is below 6e-8 times the number of contributions, relative to the mean of
    the updates' absolute values; in practice it grows with the square root of that number.
    """

    needs_single_updates: ClassVar[bool] = False

    def weight(self, examples: int) -> int:
        """Return the examples, or 1 when every client counts the same."""
        return examples if self.config.weighted else 1

    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return the mean; where it is weighted and no contribution has an example, 0."""
        total: Tensor | None = None
        weight = 0
        for contribution in contributions:
            share = self.weight(contribution.examples)
            weight += share
            if total is None:
                total = contribution.vector * share
            else:
                total.add_(contribution.vector, alpha=share)
        assert total is not None, "called with at least one contribution"
        return total.div_(weight) if weight else total
