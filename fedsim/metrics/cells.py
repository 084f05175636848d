"""Share of correct cells of guessed table rows, against a baseline of other people's rows matched in the same way.

Matching inflates the score of each guess: among as many other rows as a batch has, some row is similar to each of its
rows. Correct cells beyond the baseline are information from the update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.metrics.image import match
from fedsim.metrics.table import Columns, right_cells

_GROUPS = 10  # groups of other rows; their mean then varies less than the score of one batch


@registry.metric(
    "cells_right",
    title="cells right",
    summary="of a row: share of its cells that are right: a category's likeliest value, a number within 0.1 standard "
    "deviations",
    over="item",
    form="percent",
    digits=0,
    statistics={"table.cells_right": "mean"},
    worst=0.0,
    noun="row",
)
def cells_right(guess: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the share of correct cells of a row (C,)."""
    return float(right_cells(guess, original, columns).double().mean())


@registry.metric(
    "cells_of_others",
    title="cells right in other people's rows",
    summary="of a row: the same of as many rows of the test set as the batch has, matched in the same way",
    over="item",
    form="percent",
    digits=0,
    statistics={"table.cells_of_others": "mean"},
    worst=0.0,
    noun="row",
)
def cells_of_others(neighbours: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the mean `cells_right` of other people's rows (G, C), one per group, for a row (C,)."""
    return float(right_cells(neighbours, original, columns).double().mean())


@registry.metric(
    "row_of_others",
    title="read in other people's rows",
    summary="of a row: share of the groups of strangers of which a row has every cell right",
    over="item",
    form="percent",
    digits=1,
    statistics={"table.row_of_others": "mean"},
    worst=0.0,
    noun="row",
)
def row_of_others(neighbours: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the share of other people's rows (G, C), one per group, that equal a row (C,) in all cells."""
    return float(right_cells(neighbours, original, columns).all(-1).double().mean())


def matched_strangers(originals: Tensor, people: Tensor) -> Tensor:
    """Return for each row (B, C) the matched row of each group of B other rows, shape (G, B, C).

    Args:
        originals: the batch.
        people: other people's rows (N, C), split into up to ten groups; fewer than B rows give no group.
    """
    size = len(originals)
    groups = people[: size * min(_GROUPS, len(people) // size)].view(-1, *originals.shape)
    matched = [group[match(group, originals)] for group in groups]
    return torch.stack(matched) if matched else groups
