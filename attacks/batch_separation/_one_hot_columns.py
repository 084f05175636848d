"""0/1 columns of a table, and the rows of a span that satisfy them.

The rows of a batch lie in the row space of the first gradient. There, in units in which a category is 0 or 1, a row is
determined by as many independent entries as the space has dimensions, and each of these entries has few possible
values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_PRESENT = 1e-3  # norm relative to the bias column's: a column that is 0 in all rows of the batch holds only rounding
_INDEPENDENT = 1e-4
_NEAR = 0.02  # tolerance of 0, 1 and steps: singular vectors of tiny singular values have errors of about 1e-3
_AT_ONCE = 200_000


class TableColumns(NamedTuple):
    """Public knowledge of a table's columns, scaled to extremes of 0 and 1.

    Attributes:
        categories: the columns of each category; a flag without a category is a category of its own.
        steps: for numeric columns of a known scale: number of equal steps of its range, by column.
    """

    categories: tuple[tuple[int, ...], ...]
    steps: Mapping[int, int]


class Feature(NamedTuple):
    """Pivot columns, and all their joint values, shape (options, columns)."""

    columns: tuple[int, ...]
    options: Tensor


class Pivots(NamedTuple):
    """Independent columns that determine a row.

    Attributes:
        features: the columns, by feature, without the bias.
        determined_dimensions: number of dimensions of the row space that they determine, with the bias.
        combinations: number of combinations of their values.
    """

    features: tuple[Feature, ...]
    determined_dimensions: int
    combinations: int


def pivots_of(span: Tensor, table: TableColumns) -> Pivots:
    """Choose columns that determine a row of a span: the bias, flags, then numbers of known scales, shortest first.

    Args:
        span: rows that span the batch, in units of the table, the bias last, shape (R, columns + 1).
        table: description of its columns.
    """
    basis = span[:, -1:] / span[:, -1].norm()
    chosen: list[int] = []
    flags = [column for category in table.categories for column in _present(span, category)]
    while len(basis.T) < len(span) and flags:
        residual = span[:, flags] - basis @ (basis.T @ span[:, flags])
        sizes = residual.norm(dim=0) / span[:, flags].norm(dim=0)
        best = int(sizes.argmax())
        if float(sizes[best]) < _INDEPENDENT:
            break
        chosen.append(flags.pop(best))
        basis = torch.linalg.qr(torch.column_stack([basis, residual[:, best]])).Q
    for column in sorted(table.steps, key=lambda column: table.steps[column]):
        residual = span[:, column] - basis @ (basis.T @ span[:, column])
        if len(basis.T) < len(span) and float(residual.norm() / span[:, column].norm()) > _INDEPENDENT:
            chosen.append(column)
            basis = torch.linalg.qr(torch.column_stack([basis, residual])).Q
    features = tuple(_features(span, table, chosen))
    combinations = math.prod(len(feature.options) for feature in features)
    return Pivots(features, len(basis.T), combinations)


def _present(span: Tensor, columns: Sequence[int]) -> list[int]:
    usual = span[:, -1].norm()
    return [column for column in columns if float(span[:, column].norm()) > _PRESENT * usual]


def _features(span: Tensor, table: TableColumns, chosen: Sequence[int]) -> Iterator[Feature]:
    """Yield each feature with its options: one of its pivots is 1, or none if another column may be."""
    for category in table.categories:
        columns = tuple(column for column in category if column in chosen)
        if columns:
            is_open = len(category) == 1 or len(columns) < len(_present(span, category))
            empty = torch.zeros(int(is_open), len(columns), dtype=torch.float64)
            yield Feature(columns, torch.cat([torch.eye(len(columns), dtype=torch.float64), empty]))
    for column, steps in table.steps.items():
        if column in chosen:
            yield Feature((column,), torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)[:, None])


def rows_in(span: Tensor, table: TableColumns, pivots: Pivots) -> Tensor:
    """Return all q (k, R) for which q span is a row of the table: flags are 0 or 1, and numbers are on their steps.

    Args:
        span: as for `pivots_of`.
        table: description of its columns.
        pivots: R pivots.
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


def round_rows(rows: Tensor, table: TableColumns) -> Tensor:
    """Return rows (k, columns) with flags rounded to 0 or 1, and numbers of known scales to their steps."""
    result = rows.clone()
    flags = [column for category in table.categories for column in category]
    result[:, flags] = result[:, flags].round()
    for column, steps in table.steps.items():
        result[:, column] = (result[:, column] * steps).round() / steps
    return result
