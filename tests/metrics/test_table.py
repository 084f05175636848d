"""Rows against counts by hand: which columns are categories, and how near a guess is."""

import pytest
import torch

from fedsim.core import registry
from fedsim.core.types import InputSpec
from fedsim.metrics.table import (
    TOLERANCE,
    categories_guessed,
    categories_right,
    columns_of,
    number_error,
    number_error_guessed,
    row_exact,
)

ROWS = torch.tensor(
    [
        [2.0, 1.0, 0.0, 0.0, 1.0, 7.0],
        [4.0, 0.0, 1.0, 0.0, 0.0, 7.0],
        [6.0, 0.0, 0.0, 1.0, 1.0, 7.0],
        [8.0, 1.0, 0.0, 0.0, 0.0, 7.0],
    ]
)
SPEC = InputSpec((6,), 2, (0.0,) * 6, (1.0,) * 6)
COLUMNS = columns_of(ROWS, SPEC)


def test_neighbours_of_which_exactly_one_is_1_are_a_category() -> None:
    assert COLUMNS.categories == ((1, 2, 3),)
    assert COLUMNS.numbers == (0, 4, 5)
    assert COLUMNS.std.tolist() == pytest.approx([5**0.5, 0.5, 0.1875**0.5, 0.1875**0.5, 0.5, 1.0])
    scaled = columns_of(
        (ROWS - 3.0) / 2.0, InputSpec((6,), 2, (3.0,) * 6, (2.0,) * 6)
    )  # normalised columns are the same columns
    assert (scaled.categories, scaled.numbers) == (COLUMNS.categories, COLUMNS.numbers)


def test_numbers_are_compared_in_standard_deviations_and_categories_by_their_likeliest_value() -> None:
    original = ROWS[0]
    guess = torch.tensor([2.0 + 5**0.5, 0.4, 0.3, 0.3, 1.0, 7.0])
    assert number_error(guess, original, COLUMNS) == pytest.approx(1 / 3)
    assert categories_right(guess, original, COLUMNS) == 1.0
    assert categories_right(torch.tensor([2.0, 0.1, 0.5, 0.4, 1.0, 7.0]), original, COLUMNS) == 0.0
    assert row_exact(guess, original, COLUMNS) == 0.0
    assert row_exact(original + torch.tensor([0.2, 0, 0, 0, 0, 0]), original, COLUMNS) == 1.0  # 0.09 deviations
    assert row_exact(original + torch.tensor([0.3, 0, 0, 0, 0, 0]), original, COLUMNS) == 0.0


def test_marginals_give_the_mean_and_the_most_frequent_value() -> None:
    assert number_error_guessed(ROWS[0], COLUMNS) == pytest.approx((3 / 5**0.5 + 1.0 + 0.0) / 3)
    assert [categories_guessed(row, COLUMNS) for row in ROWS] == [1.0, 0.0, 0.0, 1.0]


def test_the_summary_of_a_row_that_was_read_says_the_tolerance() -> None:
    assert f"within {TOLERANCE:g} standard deviations" in registry.get("metric", "row_exact").summary
