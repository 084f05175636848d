"""Inference of the targets of several heads, each from the residuals of its own outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.core.targets._classes import read_classes
from attacks.core.targets._numbers import read_numbers
from attacks.core.targets._residuals import Residuals
from attacks.core.targets._sets import read_sets
from attacks.core.targets._slopes import Slope
from attacks.core.targets._values import Targets
from fedsim.core.types import LabelHead, placed


def read_heads(residuals: Residuals, slope: Slope, heads: Sequence[LabelHead]) -> Targets:
    """Return the labels of all heads in one row; numbers last, since a loss may count them for some classes only."""
    shape = len(residuals.values), sum(head.labels for head in heads)
    values = torch.full(shape, torch.nan, dtype=torch.float64)
    are_read, are_bounded = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for head, labels, outputs in sorted(placed(heads), key=lambda place: place[0].kind == "numbers"):
        of_head = Residuals(*(part.flatten(1)[:, outputs] for part in residuals))
        targets = _read_head(head, of_head, _slope_of_head(slope, values.nan_to_num(), labels, outputs))
        if targets is not None:
            read, bounded, said = (
                part.view(shape[0], -1) for part in (targets.are_read, targets.are_bounded, targets.values)
            )
            are_read[:, labels], are_bounded[:, labels] = read, bounded
            values[:, labels] = said.double().where(read | bounded, torch.nan)
    return Targets(values, are_read, are_bounded)


def _read_head(head: LabelHead, residuals: Residuals, slope: Slope) -> Targets | None:
    """Return the labels of one head.

    Args:
        head: gives the kind of the labels.
        residuals: residuals of the head's outputs, shape (B, outputs).
        slope: function from the head's labels (B, labels) to the residuals of its outputs.
    """
    if head.kind == "numbers":
        return read_numbers(residuals, slope, (head.labels,))
    if head.kind == "set":
        return read_sets(residuals, slope, (head.labels,))
    maps = Residuals(*(part.unflatten(1, (head.classes, *head.shape)) for part in residuals))
    return read_classes(maps, lambda labels: slope(labels.view(len(labels), -1)).view(maps.values.shape), head.shape)


def _slope_of_head(slope: Slope, row: Tensor, labels: slice, outputs: slice) -> Slope:
    """Return the function from a head's labels to the residuals of its outputs; labels of other heads stay fixed."""

    def of_head(targets: Tensor) -> Tensor:
        whole = torch.cat([row[:, : labels.start], targets.to(row), row[:, labels.stop :]], 1)
        return slope(whole).flatten(1)[:, outputs]

    return of_head
