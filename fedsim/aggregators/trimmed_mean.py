"""Trimmed mean: every coordinate is the mean of the clients' values there without the k largest and k smallest.

Paper: Yin et al. 2018, arXiv 1803.01498, definition 2, with k = floor(fraction n) of n contributions; computed by
Flower's FedTrimmedAvg. Robust against k clients that send anything; where fraction n is below 1 it trims nobody and
is the plain mean. Examples do not count: a client states their number itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import ClassVar, final

from pydantic import Field
from torch import Tensor

from fedsim.aggregators._flower import by_coordinate
from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution


class TrimmedMeanConfig(Config):
    """Settings of the trimmed mean."""

    fraction: float = Field(default=0.2, ge=0, lt=0.5, description="share of the clients that is trimmed on each side")


@final
@aggregator("trimmed-mean", summary="coordinate-wise mean without the extremes", paper="1803.01498")
class TrimmedMean(Aggregator[TrimmedMeanConfig]):
    """Holds the updates of a round in memory."""

    needs_single_updates: ClassVar[bool] = True

    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return the coordinate-wise trimmed mean."""
        from flwr.serverapp.strategy import FedTrimmedAvg  # noqa: PLC0415 - listing need not load Flower

        vectors = [contribution.vector for contribution in contributions]
        trimmed = math.floor(Fraction(repr(self.config.fraction)) * len(vectors))
        # Flower rounds beta n down after a product in floating point, which makes 28 of 0.29 * 100.
        return by_coordinate(FedTrimmedAvg(beta=(trimmed + 0.25) / len(vectors)), vectors)
