"""Columns of 0 and 1 in a table, and the rows of a span that obey them.

The rows of a batch lie in the row space of the first gradient. There, in units in which a category is 0 or 1, a row is
fixed by as many independent entries as the space has dimensions, and each of these entries has few possible values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_PRESENT = 1e-3  # a column in which no row of the batch is 1 has rounding alone
_INDEPENDENT = 1e-4
_NEAR = 0.02  # of 0, of 1 or of a step: singular vectors of tiny singular values have errors of about 1e-3
_AT_ONCE = 200_000


class TableColumns(NamedTuple):
    """What public statistics tell of the columns of a table, whose extremes are 0 and 1.

    Attributes:
        categories: the columns of each category; a flag that belongs to none stands alone.
        steps: for a number of a known scale, into how many equal steps its range is divided, by column.
    """

    categories: tuple[tuple[int, ...], ...]
    steps: Mapping[int, int]


class Feature(NamedTuple):
    """Columns that are pivots, and all values that they may have together, shape (options, columns)."""

    columns: tuple[int, ...]
    options: Tensor


class Pivots(NamedTuple):
    """Independent columns that fix a row.

    Attributes:
        features: the columns, by feature, without the bias.
        fixed: how many dimensions of the row space they fix, with the bias.
        combinations: in how many ways their values combine.
    """

    features: tuple[Feature, ...]
    fixed: int
    combinations: int


def pivots_of(span: Tensor, table: TableColumns) -> Pivots:
    """Choose columns that fix a row of a span: the bias, then flags, then numbers of known scales, shortest first.

    Args:
        span: rows that span the batch, in units of the table, the bias last, shape (R, columns + 1).
        table: what its columns are.
    """
    basis = span[:, -1:] / span[:, -1].norm()
    chosen: list[int] = []
    flags = [column for category in table.categories for column in _present(span, category)]
    while len(basis.T) < len(span) and flags:
        rest = span[:, flags] - basis @ (basis.T @ span[:, flags])
        sizes = rest.norm(dim=0) / span[:, flags].norm(dim=0)
        best = int(sizes.argmax())
        if float(sizes[best]) < _INDEPENDENT:
            break
        chosen.append(flags.pop(best))
        basis = torch.linalg.qr(torch.column_stack([basis, rest[:, best]])).Q
    for column in sorted(table.steps, key=lambda column: table.steps[column]):
        rest = span[:, column] - basis @ (basis.T @ span[:, column])
        if len(basis.T) < len(span) and float(rest.norm() / span[:, column].norm()) > _INDEPENDENT:
            chosen.append(column)
            basis = torch.linalg.qr(torch.column_stack([basis, rest])).Q
    features = tuple(_features(span, table, chosen))
    combinations = math.prod(len(feature.options) for feature in features)
    return Pivots(features, len(basis.T), combinations)


def _present(span: Tensor, columns: Sequence[int]) -> list[int]:
    usual = span[:, -1].norm()
    return [column for column in columns if float(span[:, column].norm()) > _PRESENT * usual]


def _features(span: Tensor, table: TableColumns, chosen: Sequence[int]) -> Iterator[Feature]:
    """Give each feature with a pivot its options: one of its columns is 1, or none where another column may be."""
    for category in table.categories:
        columns = tuple(column for column in category if column in chosen)
        if columns:
            is_open = len(category) == 1 or len(columns) < len(_present(span, category))
            none = torch.zeros(int(is_open), len(columns), dtype=torch.float64)
            yield Feature(columns, torch.cat([torch.eye(len(columns), dtype=torch.float64), none]))
    for column, steps in table.steps.items():
        if column in chosen:
            yield Feature((column,), torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)[:, None])


def rows_in(span: Tensor, table: TableColumns, pivots: Pivots) -> Tensor:
    """Return all q (k, R) for which q span is a row of the table: flags are 0 or 1, and numbers keep to their steps.

    Args:
        span: as for `pivots_of`.
        table: what its columns are.
        pivots: R of them.
    """
    columns = [column for feature in pivots.features for column in feature.columns]
    solve = torch.linalg.inv(span[:, [*columns, span.shape[1] - 1]])
    parts: list[Tensor] = []
    for start in range(0, pivots.combinations, _AT_ONCE):
        numbers = torch.arange(start, min(start + _AT_ONCE, pivots.combinations))
        values: list[Tensor] = []
        for feature in pivots.features:
            values.append(feature.options[numbers % len(feature.options)])
            numbers = numbers // len(feature.options)
        vectors = torch.cat([*values, torch.ones(len(numbers), 1, dtype=torch.float64)], 1) @ solve
        parts.append(vectors[_obeys(vectors @ span, table)])
    return torch.cat(parts)


def _obeys(rows: Tensor, table: TableColumns) -> Tensor:
    good = torch.ones(len(rows), dtype=torch.bool)
    for category in table.categories:
        flags = rows[:, list(category)]
        good &= ((flags - flags.round()).abs() < _NEAR).all(1) & flags.round().ge(0).all(1)
        good &= flags.round().sum(1) <= 1 if len(category) == 1 else flags.round().sum(1) == 1
    for column, steps in table.steps.items():
        value = rows[:, column] * steps
        good &= ((value - value.round()).abs() < _NEAR) & (value.round() >= 0) & (value.round() <= steps)
    return good


def rounded(rows: Tensor, table: TableColumns) -> Tensor:
    """Return rows (k, columns) with flags that are 0 or 1 and numbers on their steps, where these are known."""
    result = rows.clone()
    flags = [column for category in table.categories for column in category]
    result[:, flags] = result[:, flags].round()
    for column, steps in table.steps.items():
        result[:, column] = (result[:, column] * steps).round() / steps
    return result
