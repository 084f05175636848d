"""Pixels and masks as text for a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor

_LEVELS = 16
_WEBP_QUALITY = 60


def strip(frames: Tensor) -> str:
    """Return images as a single base64 picture: a row per frame, a column per image.

    Grey images become a PNG of 16 greys, coloured images a lossy WebP. NaN pixels are black.

    Args:
        frames: pixels in [0, 1], shape (F, B, C, H, W) with C 1 or 3.
    """
    from PIL import Image  # noqa: PLC0415 - slow, and the command line does not need it

    count, batch, colours, height, width = frames.shape
    tiled = frames.permute(0, 3, 1, 4, 2).reshape(count * height, batch * width, colours).nan_to_num(0.0).clamp(0, 1)
    buffer = io.BytesIO()
    if colours > 1:
        Image.fromarray((tiled * 255).round().to(torch.uint8).numpy()).save(buffer, "WEBP", quality=_WEBP_QUALITY)
        return base64.b64encode(buffer.getvalue()).decode()
    levels = (tiled.squeeze(2) * (_LEVELS - 1)).round().to(torch.uint8).numpy()
    picture = Image.fromarray(levels, "P")
    picture.putpalette([grey for level in range(_LEVELS) for grey in [level * 255 // (_LEVELS - 1)] * 3])
    picture.save(buffer, "PNG", bits=4, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def contrast(pixels: Tensor) -> float:
    """Return the difference between the brightest and the darkest pixel, both clamped to [0, 1]."""
    return float(pixels.clamp(0, 1).max() - pixels.clamp(0, 1).min())


def bits(mask: Tensor) -> str:
    """Return a mask as hexadecimal digits, first entry in the highest bit; a bit is 1 for entries above 0.5."""
    return np.packbits(mask.flatten().numpy() > 0.5).tobytes().hex()  # noqa: PLR2004 - halfway from dropped to kept
