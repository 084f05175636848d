"""Inputs and a clone of the bottom, searched in turn: what is sent is met, and that says little of the inputs."""

import pytest

from tests.attacks.vertical.column_seats import guessed, seat
from tests.questions.vertical.splitting import split_federation

QUICK = {"rounds": 20, "steps": 10}


@pytest.mark.paper_step("unsplit", "alternating search for inputs and bottom")
def test_what_is_sent_is_met_by_inputs_that_are_not_the_partys() -> None:
    """Of a dense bottom every invertible change of the inputs fits as well, so the guess is no nearer than the mean."""
    federation = split_federation(classes=4, columns=8, width=16, activation="leaky-relu")
    view, originals = seat(federation, "unsplit")
    guesses = guessed("unsplit", view, **QUICK, size=0.0)
    assert float(guesses.std(0).min()) > 1e-3  # each column was moved
    of_mean = (view.public.mean(0) - originals).square().sum()
    assert float((guesses - originals).square().sum()) > 0.5 * float(of_mean)


@pytest.mark.paper_step("unsplit", "priors on the inputs")
def test_priors_draw_inputs_to_zero() -> None:
    federation = split_federation(classes=4, columns=8, width=16, activation="leaky-relu")
    view, _ = seat(federation, "unsplit")
    near, far = (guessed("unsplit", view, **QUICK, size=size).square().mean() for size in (10.0, 0.0))
    assert float(near) < 0.5 * float(far)
