"""Windows of synthetic time series: two oscillations of different periods, a drift and noise, and the next values.

    x_t = a sin(2 pi t / 12 + u) + b sin(2 pi t / 5 + v) + c t + 0.1 e_t,  a, b, c, u, v of each series, e_t normal

Everything depends on the seed; no file is read.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset, InputSpec

_PERIODS = (12.0, 5.0)
_NOISE, _DRIFT = 0.1, 0.02


class MadeSeriesConfig(Config):
    """Settings of made-series."""

    windows: int = Field(default=600, ge=10, description="windows, a fifth of them for testing")
    times: int = Field(default=24, ge=2, description="length of a window")
    horizon: int = Field(default=4, ge=1, description="numbers that follow it")
    seed: int = Field(default=0, ge=0, description="of the series; not the scenario's seed")


@dataset("made-series", summary="windows of made-up series, and the numbers that follow")
def made_series(config: MadeSeriesConfig) -> Dataset:
    """Generate windows (times, 1) and labels (horizon,)."""
    source = seeding.generator(config.seed, "made series")
    values = _series(config.windows, config.times + config.horizon, source)
    whole = Batch(values[:, : config.times, None], values[:, config.times :])
    train, test = whole.split(config.windows - config.windows // 5)
    low, high = train.inputs.amin((0, 2)), train.inputs.amax((0, 2))
    width = high - low
    spec = InputSpec((config.times, 1), config.horizon, tuple((-low / width).tolist()), tuple((1 / width).tolist()))
    return Dataset(train, test, spec, tuple(f"in {step + 1}" for step in range(config.horizon)), task="series")


def _series(count: int, times: int, source: torch.Generator) -> Tensor:
    time = torch.arange(times, dtype=torch.float32)
    values = _DRIFT * torch.randn(count, 1, generator=source) * time
    for period in _PERIODS:
        size, phase = torch.rand(count, 1, generator=source), 2 * math.pi * torch.rand(count, 1, generator=source)
        values = values + size * (2 * math.pi * time / period + phase).sin()
    return values + _NOISE * torch.randn(count, times, generator=source)
