"""Pixel values: the range of normalised images, and a median filter."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.types import Observation


def pixel_box(observation: Observation) -> tuple[Tensor, Tensor]:
    """Return the normalised values of pixels 0 and 1, shape (C, 1, ...), with as many dimensions as an example."""
    spec = observation.spec
    shape = (-1, *(1 for _ in spec.shape[1:]))
    mean, std = torch.tensor(spec.mean).view(shape), torch.tensor(spec.std).view(shape)
    return (0.0 - mean) / std, (1.0 - mean) / std


def median_filtered(inputs: Tensor) -> Tensor:
    """Return images after a 3 x 3 median filter, edges reflected."""
    flat = inputs.flatten(0, 2)[:, None]
    padded = torch.nn.functional.pad(flat, (1, 1, 1, 1), mode="reflect")
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2)
    return windows.median(-1).values[:, 0].view_as(inputs)
