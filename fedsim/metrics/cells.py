"""How many cells of a table a guess has right, beside the rows of other people, matched to it in the same way.

Matching flatters every guess: among as many rows of strangers as a batch has, one is near to each of its rows. What an
attack has right beyond that it learned from the update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.metrics.image import match
from fedsim.metrics.table import Columns, right_cells

_GROUPS = 10  # of strangers: their mean then varies less than what a batch of the same size has right


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
    """Return the share of cells of a row (C,) that are right."""
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
def cells_of_others(others: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the mean `cells_right` of rows of strangers (G, C), one of each group, beside a row (C,)."""
    return float(right_cells(others, original, columns).double().mean())


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
def row_of_others(others: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the share of rows of strangers (G, C), one of each group, that are a row (C,)."""
    return float(right_cells(others, original, columns).all(-1).double().mean())


def matched_strangers(originals: Tensor, people: Tensor) -> Tensor:
    """Return for each row (B, C) the row of every group of B strangers that is matched to it, shape (G, B, C).

    Args:
        originals: the batch.
        people: strangers (N, C), from whom up to ten groups are taken; fewer than B of them make none.
    """
    size = len(originals)
    groups = people[: size * min(_GROUPS, len(people) // size)].view(-1, *originals.shape)
    matched = [group[match(group, originals)] for group in groups]
    return torch.stack(matched) if matched else groups
