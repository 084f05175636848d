"""Check the inputs of image models."""

from __future__ import annotations

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec


def image_shape(spec: InputSpec, model: str, smallest: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width).

    Args:
        spec: shape of the inputs.
        model: the model's name, for the message.
        smallest: smallest height and width in pixels that the model can process.

    Raises:
        FedsimError: the inputs are not images, or are too small.
    """
    if len(spec.shape) != 3:  # noqa: PLR2004
        raise FedsimError(f"model '{model}' reads images (channels, height, width), got inputs of shape {spec.shape}.")
    channels, height, width = spec.shape
    if min(height, width) < smallest:
        size = max(32, smallest)
        raise FedsimError(
            f"model '{model}' needs at least {smallest} x {smallest} pixels, got {height} x {width}. "
            f"Set data.size = {size}: smaller images are padded with black."
        )
    return channels, height, width
