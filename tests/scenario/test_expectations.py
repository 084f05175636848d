"""Figures that a run should give again: bounds, and all arms by default."""

import pytest
from pydantic import ValidationError

from fedsim.scenario.expectations import Expected, ExpectedFigure


def test_a_figure_is_of_every_arm_and_exact_unless_it_says_otherwise() -> None:
    expected_figure = ExpectedFigure(metric="psnr_median", value=3.0)
    assert (expected_figure.arm, expected_figure.attack, expected_figure.tolerance) == ("all", "", 0.0)
    assert Expected().figures == ()
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ExpectedFigure(metric="psnr_median", value=3.0, tolerance=-0.1)
