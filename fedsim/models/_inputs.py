"""Check the input shapes of image models and of time-series models."""

from __future__ import annotations

from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec

_IMAGE, _WINDOW = 3, 2  # number of dimensions


def image_shape(spec: InputSpec, model: str, smallest: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width).

    Args:
        spec: shape of the inputs.
        model: the model's name, for the message.
        smallest: smallest height and width in pixels that the model can process.

    Raises:
        FedsimError: the inputs are not images, or are too small.
    """
    if len(spec.shape) != _IMAGE:
        raise FedsimError(f"model '{model}' reads images (channels, height, width), got inputs of shape {spec.shape}.")
    channels, height, width = spec.shape
    if min(height, width) < smallest:
        size = max(32, smallest)
        raise FedsimError(
            f"model '{model}' needs at least {smallest} x {smallest} pixels, got {height} x {width}. "
            f"Set data.size = {size}: smaller images are padded with black."
        )
    return channels, height, width


def window_shape(spec: InputSpec, model: str) -> tuple[int, int]:
    """Return (times, variables) of a window; in an image each row of pixels is a time step.

    Args:
        spec: shape of the inputs.
        model: the model's name, for the message.

    Raises:
        FedsimError: the inputs are neither windows nor images.
    """
    if len(spec.shape) == _WINDOW:
        return spec.shape[0], spec.shape[1]
    if len(spec.shape) != _IMAGE:
        raise FedsimError(f"model '{model}' reads images or windows (times, variables), got shape {spec.shape}.")
    channels, height, width = spec.shape
    return height, channels * width


def as_windows(inputs: Tensor) -> Tensor:
    """Return windows (B, times, variables) unchanged, and images (B, C, H, W) as their rows (B, H, C W)."""
    return inputs if inputs.ndim == _IMAGE else inputs.movedim(1, 2).flatten(2)
