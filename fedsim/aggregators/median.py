"""Median: every coordinate is the median of the clients' values there; of an even number, the mean of the middle two.

Paper: Yin et al. 2018, arXiv 1803.01498, definition 1; computed by Flower's FedMedian. Robust while fewer than half
of the clients send anything but their update. Examples do not count: a client states their number itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, final

from torch import Tensor

from fedsim.aggregators._flower import by_coordinate
from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution


class MedianConfig(Config):
    """The median has no settings."""


@final
@aggregator("median", summary="coordinate-wise median of the updates", paper="1803.01498")
class Median(Aggregator[MedianConfig]):
    """Holds the updates of a round in memory."""

    needs_single_updates: ClassVar[bool] = True

    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return the coordinate-wise median."""
        from flwr.serverapp.strategy import FedMedian  # noqa: PLC0415 - listing need not load Flower

        return by_coordinate(FedMedian(), [contribution.vector for contribution in contributions])
