"""Initialisation of a search: dummy inputs (B, *shape) drawn from a generator."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Start = Literal["normal", "patterned", "colour", "grey"]


def first_inputs(start: Start, shape: tuple[int, ...], pattern: int, generator: torch.Generator) -> Tensor:
    """Return dummy inputs in normalised units.

    normal: independent N(0, 1). patterned: a random square of `pattern` pixels, tiled over the image. colour: one
    random colour per image. grey: zeros.

    Args:
        start: name of the initialisation.
        shape: (B, channels, height, width), or any other shape, for which patterned and colour are constant.
        pattern: edge of the square.
        generator: random source.
    """
    if start == "grey":
        return torch.zeros(shape)
    if start == "normal":
        return torch.randn(shape, generator=generator)
    sides = [1 if start == "colour" else min(pattern, side) for side in shape[2:]]
    tile = torch.randn((*shape[:2], *sides), generator=generator)
    repeats = [-(-side // edge) for side, edge in zip(shape[2:], sides, strict=True)]
    tiled = tile.repeat(1, 1, *repeats)
    return tiled[(slice(None), slice(None), *(slice(side) for side in shape[2:]))].contiguous()
