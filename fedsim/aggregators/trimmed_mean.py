"""trimmed-mean: averages the clients' values at every coordinate, without the k largest and k smallest.

Idea: Extreme values may come from attackers, so they are left out.
Equation: k = floor(fraction n) of n updates; u_j = mean over the n - 2 k middle values of u_kj
Assumes: at most k clients send arbitrary updates. Numbers of examples do not count, since clients state them.
Fails: with more attackers; if fraction n is below 1 it trims no value and is the plain mean; it needs single updates.
    Flower's FedTrimmedAvg (1.42) rounds the floating-point product beta n down: 0.29 * 100 becomes 28.
Source: Yin et al. 2018, arXiv 1803.01498, definition 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import ClassVar, final

from pydantic import Field
from torch import Tensor

from fedsim.aggregators._middle import middle_mean
from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution


class TrimmedMeanConfig(Config):
    """Settings of the trimmed mean."""

    fraction: float = Field(default=0.2, ge=0, lt=0.5, description="share of the clients that are trimmed on each side")


@final
@aggregator(
    "trimmed-mean",
    summary="coordinate-wise mean without the extreme values",
    tier="baseline",
    paper="1803.01498",
    fidelity="reproduction",
    paper_steps=(("mean of each coordinate without its extremes", "TrimmedMean.combine"),),
)
class TrimmedMean(Aggregator[TrimmedMeanConfig]):
    """Keeps a round's updates in memory."""

    needs_single_updates: ClassVar[bool] = True

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the coordinate-wise trimmed mean."""
        vectors = [contribution.vector for contribution in contributions]
        # Exact decimal arithmetic: in floating point 0.29 * 100 is below 29.
        return middle_mean(vectors, math.floor(Fraction(repr(self.config.fraction)) * len(vectors)))
