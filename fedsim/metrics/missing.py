"""Placeholders for missing guesses, if an attack returns fewer examples than the update has."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedsim.core.types import NO_LABEL, Reconstruction


def complete(reconstruction: Reconstruction, count: int) -> Reconstruction:
    """Pad a guess to at least `count` examples with NaN inputs and masks and unknown labels.

    Args:
        reconstruction: guess of any number of floating-point examples.
        count: number of originals.
    """
    made = len(reconstruction.inputs)
    if made >= count:
        return reconstruction
    return replace(
        reconstruction,
        inputs=fill(reconstruction.inputs.detach(), count, torch.nan),
        labels=_fill_labels(reconstruction.labels[:made], count),
        masks=None
        if reconstruction.masks is None
        else tuple(_with_missing(mask.detach(), made, count) for mask in reconstruction.masks),
    )


def _fill_labels(labels: Tensor, count: int) -> Tensor:
    return fill(labels, count, torch.nan if labels.is_floating_point() else NO_LABEL)


def fill(rows: Tensor, count: int, value: float) -> Tensor:
    """Pad rows with a value to `count` rows."""
    lacking = max(0, count - len(rows))
    return torch.cat([rows, rows.new_full((lacking, *rows.shape[1:]), value)])


def _with_missing(mask: Tensor, made: int, count: int) -> Tensor:
    """Pad a mask with equally many rows per example; masks of another shape stay unchanged."""
    if not made or len(mask) % made:
        return mask
    return fill(mask, len(mask) // made * count, torch.nan)
