"""Cells of a table against counts by hand, and strangers that are matched as guesses are."""

import itertools

import pytest
import torch

from fedsim.core import registry
from fedsim.core.types import InputSpec
from fedsim.metrics.cells import cells_of_others, cells_right, matched_strangers, row_of_others
from fedsim.metrics.table import TOLERANCE, columns_of, row_exact

PEOPLE = torch.tensor(
    [
        [2.0, 1.0, 0.0, 0.0, 7.0],
        [4.0, 0.0, 1.0, 0.0, 6.0],
        [6.0, 0.0, 0.0, 1.0, 5.0],
        [8.0, 1.0, 0.0, 0.0, 4.0],
    ]
)
COLUMNS = columns_of(PEOPLE, InputSpec((5,), 2, (0.0,) * 5, (1.0,) * 5))


def test_a_cell_is_a_category_or_a_number() -> None:
    assert (COLUMNS.categories, COLUMNS.numbers) == (((1, 2, 3),), (0, 4))
    original = PEOPLE[0]
    assert cells_right(original, original, COLUMNS) == 1.0
    # deviations of the numbers are 5**0.5 = 2.24 and half of it, and a tenth counts as read
    assert cells_right(torch.tensor([2.2, 0.4, 0.3, 0.3, 7.2]), original, COLUMNS) == pytest.approx(2 / 3)
    assert cells_right(torch.tensor([2.2, 0.3, 0.4, 0.3, 7.1]), original, COLUMNS) == pytest.approx(2 / 3)
    assert cells_right(torch.tensor([2.3, 0.3, 0.4, 0.3, 7.2]), original, COLUMNS) == 0.0


def test_all_cells_are_right_exactly_where_a_row_was_read() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        guess = PEOPLE[1] + 0.15 * torch.randn(5, generator=generator)
        assert (cells_right(guess, PEOPLE[1], COLUMNS) == 1.0) == (row_exact(guess, PEOPLE[1], COLUMNS) == 1.0)


def test_strangers_count_as_the_mean_over_their_groups() -> None:
    strangers = torch.stack([PEOPLE[0], PEOPLE[3], PEOPLE[1]])
    assert cells_of_others(strangers, PEOPLE[0], COLUMNS) == pytest.approx((3 + 1 + 0) / 9)
    assert row_of_others(strangers, PEOPLE[0], COLUMNS) == pytest.approx(1 / 3)


def test_every_group_of_strangers_is_matched_by_the_least_sum_of_squares() -> None:
    generator = torch.Generator().manual_seed(1)
    batch, people = torch.randn(3, 5, generator=generator), torch.randn(8, 5, generator=generator)
    matched = matched_strangers(batch, people)
    assert matched.shape == (2, 3, 5)  # two rows are left over
    for group, rows in zip((people[:3], people[3:6]), matched, strict=True):
        orders = [group[list(order)] for order in itertools.permutations(range(3))]
        assert torch.equal(rows, min(orders, key=lambda order: float((order - batch).square().sum())))


def test_there_are_at_most_ten_groups_and_none_of_too_few_strangers() -> None:
    assert matched_strangers(PEOPLE[:1], PEOPLE.repeat(5, 1)).shape == (10, 1, 5)
    assert matched_strangers(PEOPLE, PEOPLE[:3]).shape == (0, 4, 5)


def test_the_summary_says_the_tolerance() -> None:
    assert f"within {TOLERANCE:g} standard deviations" in registry.get("metric", "cells_right").summary
