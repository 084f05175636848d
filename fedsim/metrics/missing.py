"""Guesses that an attack did not make: it may not know how many examples are behind an update."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedsim.core.types import NO_LABEL, Reconstruction


def complete(reconstruction: Reconstruction, count: int) -> Reconstruction:
    """Return a guess of at least `count` examples; those that it lacks are NaN, with unknown labels and masks of NaN.

    Args:
        reconstruction: a guess of any size, images or anything else of floating point.
        count: number of originals.
    """
    made = len(reconstruction.inputs)
    if made >= count:
        return reconstruction
    return replace(
        reconstruction,
        inputs=fill(reconstruction.inputs.detach(), count, torch.nan),
        labels=_filled(reconstruction.labels[:made], count),
        masks=None
        if reconstruction.masks is None
        else tuple(_with_missing(mask.detach(), made, count) for mask in reconstruction.masks),
    )


def _filled(labels: Tensor, count: int) -> Tensor:
    return fill(labels, count, torch.nan if labels.is_floating_point() else NO_LABEL)


def fill(rows: Tensor, count: int, value: float) -> Tensor:
    """Return rows with as many of one value behind them as make `count`."""
    lacking = max(0, count - len(rows))
    return torch.cat([rows, rows.new_full((lacking, *rows.shape[1:]), value)])


def _with_missing(mask: Tensor, made: int, count: int) -> Tensor:
    """Fill up a mask, of which every example owns the same number of rows; one of another shape stays as it is."""
    if not made or len(mask) % made:
        return mask
    return fill(mask, len(mask) // made * count, torch.nan)
