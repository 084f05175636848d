"""Predictions of a linear model give as many columns as there are classes less one."""

from typing import Any

import pytest

from fedsim.core.errors import NotApplicable
from tests.attacks.vertical.column_seats import errors, guessed, seat
from tests.questions.vertical.splitting import split_federation


def worst(columns: int, **settings: Any) -> float:
    """The largest error over rows, of a party with half of the columns, where there are ten classes."""
    federation = split_federation(classes=10, columns=columns, bottom="none", **settings)
    view, originals = seat(federation, "esa")
    return float(errors(guessed("esa", view), originals).max())


@pytest.mark.paper_step("esa", "linear equations of the predictions")
@pytest.mark.parametrize("columns", [10, 18])
def test_as_many_columns_as_equations_are_exact(columns: int) -> None:
    assert worst(columns) < 1e-8  # the logarithms of small probabilities lose digits


def test_one_column_more_is_not() -> None:
    assert worst(20) > 1e-3


def test_a_model_that_is_not_linear_is_refused() -> None:
    view, _ = seat(split_federation(classes=10, columns=10), "esa")
    with pytest.raises(NotApplicable, match=r"vertical\.bottom = 'none'"):
        guessed("esa", view)
