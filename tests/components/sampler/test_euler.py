"""Euler's method: one evaluation a step, and an error of first order."""

import itertools

import pytest

from tests.components.sampler.gaussian import relative_error


@pytest.mark.paper_step("euler", "Euler step along the slope")
def test_the_error_halves_with_the_steps_and_each_takes_one_evaluation() -> None:
    errors = []
    for steps in (40, 80, 160):
        error, calls = relative_error("euler", steps)
        assert calls == steps
        errors.append(error)
    for large, small in itertools.pairwise(errors):
        assert 1.7 < large / small < 2.3  # first order: 2, reached from above or below as steps grow
