"""Heun's method: 2 N - 1 evaluations, and the error of the sheet on Gaussian data."""

import itertools

import pytest

from tests.components.sampler.gaussian import relative_error


@pytest.mark.paper_step("heun", "mean of the slopes at both ends of a step")
@pytest.mark.parametrize(("steps", "published"), [(20, 0.044), (40, 0.0098), (80, 0.0023)])
def test_the_end_of_the_curve_is_as_near_as_published(steps: int, published: float) -> None:
    error, calls = relative_error("heun", steps)
    assert calls == 2 * steps - 1
    assert error == pytest.approx(published, rel=0.05)  # it is printed with two digits


def test_the_error_falls_by_the_square_of_the_steps() -> None:
    errors = [relative_error("heun", steps)[0] for steps in (20, 40, 80)]
    assert all(4 <= large / small <= 4.6 for large, small in itertools.pairwise(errors))
