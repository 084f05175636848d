"""Accuracy of a guessed table row, with a baseline from the public marginals of its columns.

A category has a column per value, of which exactly one is 1 (one-hot); all other columns are numeric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import InputSpec

TOLERANCE = 0.1  # standard deviations up to which a number counts as recovered


@dataclass(frozen=True)
class Columns:
    """Types of a table's columns, and their public marginals.

    Attributes:
        categories: the columns of each category.
        numbers: all other columns.
        mean: mean of each column, normalised.
        std: standard deviation of each column, normalised; 1 for constant columns.
    """

    categories: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]
    mean: Tensor
    std: Tensor


def columns_of(rows: Tensor, spec: InputSpec) -> Columns:
    """Infer the column types of a table (N, C): adjacent 0/1 columns that sum to 1 form one category.

    For series (N, T, C), all values are separate numeric columns.
    """
    rows = rows.flatten(1)
    if len(spec.shape) > 1:
        return _number_columns(rows, (), tuple(range(rows.shape[1])))
    plain = (rows.double() * torch.tensor(spec.std) + torch.tensor(spec.mean)).round(decimals=4)
    is_flag = ((plain == 0) | (plain == 1)).all(0).tolist()
    categories, numbers, start = list[tuple[int, ...]](), list[int](), 0
    while start < len(is_flag):
        end = _end_of_category(plain, is_flag, start)
        if end is None:
            numbers.append(start)
            start += 1
        else:
            categories.append(tuple(range(start, end)))
            start = end
    return _number_columns(rows, tuple(categories), tuple(numbers))


def _number_columns(rows: Tensor, categories: tuple[tuple[int, ...], ...], numbers: tuple[int, ...]) -> Columns:
    std = rows.double().std(0, correction=0)
    return Columns(categories, numbers, rows.double().mean(0), std.where(std > 0, torch.ones_like(std)))


def _end_of_category(plain: Tensor, is_flag: Sequence[bool], start: int) -> int | None:
    """Return the end of the category that begins at a column; None if none begins."""
    total = torch.zeros(len(plain), dtype=plain.dtype)
    for end in range(start, len(is_flag)):
        if not is_flag[end]:
            return None
        total = total + plain[:, end]
        if bool((total > 1).any()):
            return None
        if end > start and bool((total == 1).all()):
            return end + 1
    return None


@registry.metric(
    "number_error",
    title="number error",
    summary="of a row: mean distance of its numbers from the original, in standard deviations of their columns",
    over="item",
    better="lower",
    statistics={"table.number_error": "median"},
    limits=(0.0, None),
    worst=10.0,
    unit="sd",
    noun="row",
    leads=True,
)
def number_error(guess: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the mean absolute error over numeric columns (C,), in standard deviations; 0 without any."""
    errors = _errors(guess, original, columns)
    return float(errors.mean()) if len(errors) else 0.0


@registry.metric(
    "number_error_guessed",
    title="number error by marginals",
    summary="of a row: the same of a guess that knows nothing but the mean of each column",
    over="item",
    better="lower",
    statistics={"table.number_error_guessed": "median"},
    limits=(0.0, None),
    worst=10.0,
    unit="sd",
    noun="row",
    compared=False,
)
def number_error_guessed(original: Tensor, columns: Columns) -> float:
    """Return `number_error` of the columns' means."""
    return number_error(columns.mean, original, columns)


@registry.metric(
    "categories_right",
    title="categories right",
    summary="of a row: share of its categories with the right value as most likely",
    over="item",
    form="percent",
    digits=0,
    statistics={"table.categories_right": "mean"},
    worst=0.0,
    noun="row",
)
def categories_right(guess: Tensor, original: Tensor, columns: Columns) -> float:
    """Return the share of correct categories (C,); 1 without any."""
    right = right_cells(guess, original, columns)[len(columns.numbers) :]
    return float(right.double().mean()) if len(right) else 1.0


@registry.metric(
    "categories_guessed",
    title="categories right by marginals",
    summary="of a row: the same of a guess of every category's most frequent value",
    over="item",
    form="percent",
    digits=0,
    statistics={"table.categories_guessed": "mean"},
    worst=0.0,
    noun="row",
    compared=False,
)
def categories_guessed(original: Tensor, columns: Columns) -> float:
    """Return `categories_right` of the columns' means, whose maximum is at the most frequent value."""
    return categories_right(columns.mean, original, columns)


@registry.metric(
    "row_exact",
    title="row read",
    summary="of a row: whether every category is right and every number within 0.1 standard deviations",
    over="item",
    form="flag",
    digits=0,
    worst=0.0,
    noun="row",
    threshold=0.5,
    verdict="read",
    shown=False,
)
def row_exact(guess: Tensor, original: Tensor, columns: Columns) -> float:
    """Return 1 if a row (C,) was recovered, else 0."""
    return float(right_cells(guess, original, columns).all())


def right_cells(guess: Tensor, original: Tensor, columns: Columns) -> Tensor:
    """Return whether each number, then each category, of rows (..., C) equals that of a row (C,): (..., cells)."""
    are_near = _errors(guess, original, columns) <= TOLERANCE
    of_categories = [guess[..., list(c)].argmax(-1) == original[list(c)].argmax() for c in columns.categories]
    return torch.cat([are_near, *(category[..., None] for category in of_categories)], -1)


def _errors(guess: Tensor, original: Tensor, columns: Columns) -> Tensor:
    """Return the error of each number of rows (..., C), in standard deviations of its column."""
    chosen = list(columns.numbers)
    return (guess.double() - original.double())[..., chosen].abs() / columns.std[chosen]
