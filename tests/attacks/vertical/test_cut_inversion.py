"""A known dense bottom gives every input whose kept units are as many as its numbers."""

from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import binom
from torch import nn

from fedsim.core.errors import NotApplicable
from tests.attacks.vertical.column_seats import errors, guessed, seat
from tests.questions.vertical.splitting import split_federation

EXACT = 1e-8  # rounding of equations that are well conditioned


def exact_of_200(**settings: Any) -> int:
    """Rows that are solved exactly of a party with 30 columns that sends 64 numbers."""
    view, originals = seat(split_federation(columns=60, width=64, **settings), "cut-inversion")
    return int((errors(guessed("cut-inversion", view), originals) < EXACT).sum())


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.6])
def test_rows_are_exact_where_dropout_keeps_as_many_units_as_there_are_columns(rate: float) -> None:
    expected = 200 * float(binom.sf(29, 64, 1 - rate))
    deviation = (expected * (1 - expected / 200)) ** 0.5
    assert abs(exact_of_200(activation="leaky-relu", dropout=rate) - expected) <= 4 * deviation


def test_of_relu_only_units_above_zero_count() -> None:
    view, originals = seat(split_federation(columns=60, width=64), "cut-inversion")
    enough = (view.sent_activations(view.rows) > 0).sum(1) >= 30
    assert 20 < int(enough.sum()) < 200
    assert bool((errors(guessed("cut-inversion", view), originals)[enough] < EXACT).all())


@pytest.mark.parametrize("activation", ["leaky-relu", "tanh"])
def test_it_goes_through_several_layers(activation: str) -> None:
    assert exact_of_200(activation=activation, depth=2) >= 195  # a saturated unit of tanh says little


def test_too_few_units_leave_the_mean_of_public_examples_where_they_say_nothing() -> None:
    view, originals = seat(split_federation(columns=60, width=4, activation="tanh"), "cut-inversion")
    guesses = guessed("cut-inversion", view)
    of_mean = (view.public.mean(0) - originals).square().sum()
    assert float((guesses - originals).square().sum()) < float(of_mean)


def test_what_it_cannot_undo_is_named() -> None:
    inside, _ = seat(split_federation(depth=2, dropout=0.5, dropout_at="party"), "cut-inversion")
    with pytest.raises(NotApplicable, match="dropout inside"):
        guessed("cut-inversion", inside)
    strange = replace(
        inside,
        steps=[
            replace(one, bottoms={"a": nn.Sequential(nn.Linear(10, 8), nn.GELU()).double()}) for one in inside.steps
        ],
    )
    with pytest.raises(NotApplicable, match="cannot undo a GELU"):
        guessed("cut-inversion", strange)
