"""median: computes the median of the clients' values at every coordinate.

Idea: A minority cannot move the median far. For an even number of values it is the mean of the middle two.
Equation: u_j = median over clients k of u_kj, for every coordinate j
Assumes: fewer than half of the clients send arbitrary updates. Numbers of examples do not count, since clients state
    them.
Fails: with more attackers; it needs single updates.
Source: Yin et al. 2018, arXiv 1803.01498, definition 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, final

from torch import Tensor

from fedsim.aggregators._middle import middle_mean
from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution


class MedianConfig(Config):
    """The median has no settings."""


@final
@aggregator(
    "median",
    summary="coordinate-wise median of the updates",
    tier="baseline",
    paper="1803.01498",
    fidelity="reproduction",
    paper_steps=(("median of each coordinate", "Median.combine"),),
)
class Median(Aggregator[MedianConfig]):
    """Keeps a round's updates in memory."""

    needs_single_updates: ClassVar[bool] = True

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the coordinate-wise median."""
        vectors = [contribution.vector for contribution in contributions]
        return middle_mean(vectors, (len(vectors) - 1) // 2)
