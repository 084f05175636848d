"""Reconstruction errors by patch, to separate kept from dropped patches."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.nets.visual.watching import Passed


def patch_errors(guesses: Tensor, originals: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean squared error of each patch (B, N), in raster order.

    Args:
        guesses: images (B, C, H, W).
        originals: images of the same shape.
        grid: numbers of patch rows and columns.
    """
    rows, columns = grid
    square = (guesses - originals).square().mean(1)
    return square.unflatten(1, (rows, -1)).unflatten(3, (columns, -1)).mean((2, 4)).flatten(1)


def kept_patches(passed: Passed, patches: int) -> Tensor:
    """Return the mask of patches that reached the last layer of a pass, (B, N)."""
    last = passed.patches[-1]
    is_kept = torch.zeros(len(last), patches + 1, dtype=torch.bool)
    return is_kept.scatter(1, last.where(last >= 0, patches), True)[:, :patches]


def nearest_guesses(guesses: Tensor, originals: Tensor) -> Tensor:
    """Return for each original the guess with the smallest squared error; NaN counts as 1e6."""
    flat = guesses.flatten(1).double().nan_to_num(1e6, 1e6, -1e6)
    return guesses[torch.cdist(originals.flatten(1).double(), flat).argmin(1)]
