"""Pixels and masks as text for a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor

_LEVELS = 16


def strip(frames: Tensor) -> str:
    """Return images as one base64 PNG of 16 greys: one row per frame, one column per image.

    Args:
        frames: pixels in [0, 1], shape (F, B, 1, H, W).
    """
    from PIL import Image  # noqa: PLC0415 - slow, and the command line does not need it

    count, batch, _, height, width = frames.shape
    tiled = frames.squeeze(2).permute(0, 2, 1, 3).reshape(count * height, batch * width)
    levels = (tiled.clamp(0, 1) * (_LEVELS - 1)).round().to(torch.uint8).numpy()
    picture = Image.fromarray(levels, "P")
    picture.putpalette([grey for level in range(_LEVELS) for grey in [level * 255 // (_LEVELS - 1)] * 3])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", bits=4, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def bits(mask: Tensor) -> str:
    """Return a mask as hexadecimal digits, first entry in the highest bit; 1 for entries above one half."""
    return np.packbits(mask.flatten().numpy() > 0.5).tobytes().hex()  # noqa: PLR2004 - halfway from dropped to kept
