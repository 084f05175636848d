"""What a likely image looks like, for rows of images (R, B, C, H, W); every prior returns one figure a row."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.types import Observation


def total_variation(inputs: Tensor) -> Tensor:
    """Return the anisotropic total variation, shape (R,): mean absolute differences, both directions added.

    0 for inputs that are no images.
    """
    if inputs.ndim < 5:  # noqa: PLR2004 - (R, B, C, H, W)
        return inputs.new_zeros(len(inputs))
    across = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs().flatten(1).mean(1)
    down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().flatten(1).mean(1)
    return across + down


def pixel_box(observation: Observation) -> tuple[Tensor, Tensor]:
    """Return the normalised values of pixels 0 and 1, shape (C, 1, ...): one more dimension for each of an example."""
    spec = observation.spec
    shape = (-1, *(1 for _ in spec.shape[1:]))
    mean, std = torch.tensor(spec.mean).view(shape), torch.tensor(spec.std).view(shape)
    return (0.0 - mean) / std, (1.0 - mean) / std


def median_filtered(inputs: Tensor) -> Tensor:
    """Return images whose pixels are the medians of their 3 x 3 neighbourhoods, edges reflected."""
    flat = inputs.flatten(0, 2)[:, None]
    padded = torch.nn.functional.pad(flat, (1, 1, 1, 1), mode="reflect")
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2)
    return windows.median(-1).values[:, 0].view_as(inputs)
