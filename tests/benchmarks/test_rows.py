"""Rows of experiments: bounds, intervals, and which are told apart."""

import pytest

from benchmarks._rows import holds, interval_row, least, mean_row, median_row, ratio, share
from fedsim.record import Interval


@pytest.mark.parametrize(
    ("value", "must", "expected"),
    [(8.0, ">= 8", True), (7.9, ">= 8", False), (3.0, "<= 3", True), (5.0, "< 5", False), (60.0, "> 60", False)],
)
def test_a_bound_is_a_comparison_and_a_number(value: float, must: str, expected: bool) -> None:
    assert holds(value, must) is expected


def test_a_row_holds_by_its_value_and_has_an_interval_from_three_units_on() -> None:
    row = median_row("speed", "here", [1.0, 9.0, 2.0], "x", ">= 3")
    assert (row.value, row.n, row.holds) == (2.0, 3, False)
    assert row.low is not None
    assert row.high is not None
    assert row.low <= 2.0 <= row.high
    alone = mean_row("speed", "here", [1.0, 3.0], "x")
    assert (alone.value, alone.low, alone.high, alone.holds) == (2.0, None, None, True)
    assert least("speed", "here", [1.0, 9.0, 2.0], "x", "> 1").holds is False


def test_values_of_one_unit_share_its_fate() -> None:
    row = median_row("PSNR", "here", [[1.0, 9.0], [2.0], [3.0]], "dB")
    assert (row.value, row.n) == (2.5, 3)


def test_a_share_has_wilsons_interval_and_units_may_count_in_part() -> None:
    row = share("exact", "here", [1.0, 0.5, 0.0, 0.5])
    assert (row.value, row.n, row.unit) == (0.5, 4, "share")
    # Wilson's interval of 2 of 4 at 95 %.
    assert (row.low, row.high) == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_a_ratio_of_medians_lies_in_its_interval_which_has_no_width_without_noise() -> None:
    still = ratio("ratio", "here", [2.0] * 5, [1.0] * 5)
    assert (still.low, still.value, still.high) == (2.0, 2.0, 2.0)
    row = ratio("ratio", "here", [1.8, 1.9, 2.0, 2.1, 2.2], [1.0] * 5)
    assert row.low is not None
    assert row.high is not None
    assert 1.8 <= row.low < 2.0 < row.high <= 2.2


def test_a_row_of_an_interval_has_its_ends_in_its_scale() -> None:
    row = interval_row("share", "n = 4", Interval(value=0.5, low=0.25, high=0.75, n=4), "%", scale=100)
    assert (row.low, row.value, row.high, row.n) == (25, 50, 75, 4)
