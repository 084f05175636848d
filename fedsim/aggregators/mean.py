"""mean: averages the updates, weighted by their numbers of examples.

Idea: The mean of updates is the step on the mean loss; it needs only a sum, so it works behind secure aggregation.
Equation: (sum over clients of n_k u_k) / (sum of n_k), n_k the examples of client k, or 1 for every client
Assumes: honest clients.
Fails: not robust: a single client can move the mean arbitrarily.
Source: McMahan et al. 2017, arXiv 1602.05629 (FedAvg).
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

    weighted: bool = Field(default=True, description="weight each update by its number of examples")


@final
@aggregator(
    "mean",
    summary="mean of the updates, as in FedAvg and FedSGD",
    tier="core",
    paper="1602.05629",
    fidelity="reproduction",
    paper_steps=(("mean weighted by examples", "Mean.combine"),),
    aliases=("fedavg",),
)
class Mean(Aggregator[MeanConfig]):
    """A running sum in the dtype of the updates, divided once; its memory is one vector for any number of clients.

    In float32 the relative rounding error is below 6e-8 times the number of contributions, relative to the mean of the
    updates' absolute values; in practice it grows with the square root of that number.
    """

    needs_single_updates: ClassVar[bool] = False

    def weight(self, examples: int) -> int:
        """Return the number of examples, or 1 for an unweighted mean."""
        return examples if self.config.weighted else 1

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the mean; 0 if a weighted mean has no examples."""
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
