"""Figures of an evaluation with noise: clipped to the policy's range, since a figure of a site may be anything."""

from __future__ import annotations

import math

import torch

from fedsim.core.hooks import NoiseAdder
from fedsim.guard.policy import MetricTable


def add_metric_noise(figure: float, metric: MetricTable, add_noise: NoiseAdder) -> float:
    """Return a figure, clipped to its range, with Gaussian noise. It may leave the range, so that means stay unbiased.

    Args:
        figure: of the app; NaN and infinity count as the middle of the range.
        metric: range and noise.
        add_noise: adds Gaussian noise.
    """
    half = metric.width / 2
    # Offsets from the middle: add_noise cuts to a grid towards 0, which never widens the range of an offset.
    offset = min(max(figure - metric.middle, -half), half) if math.isfinite(figure) else 0.0
    noised = add_noise(torch.tensor(offset, dtype=torch.float64), metric.noise_multiplier * metric.width)
    return metric.middle + float(noised)
