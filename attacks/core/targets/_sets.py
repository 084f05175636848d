"""Inference of set labels (each 0 or 1) from output residuals."""

from __future__ import annotations

import torch

from attacks.core.targets._residuals import Residuals
from attacks.core.targets._slopes import Slope
from attacks.core.targets._values import CLEARLY, Targets


def read_sets(residuals: Residuals, slope: Slope, shape: tuple[int, ...]) -> Targets | None:
    """Return for each output whether its residual is the residual of label 1 or 0; None if shapes differ."""
    values, blank = residuals.values, torch.zeros(len(residuals.values), *shape, dtype=torch.float64)
    if blank.numel() != values.numel():
        return None
    if_zero, if_one = ((slope(blank + value) - values).abs().view(blank.shape) for value in (0.0, 1.0))
    are_read = torch.minimum(if_zero, if_one) <= CLEARLY * torch.maximum(if_zero, if_one)
    are_read &= torch.maximum(if_zero, if_one) > 0
    return Targets((if_one < if_zero).double().where(are_read, torch.nan), are_read, torch.zeros_like(are_read))
