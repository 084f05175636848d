"""Thresholds are the ceiling of the written share, and settings are bounded."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsim.privacy.secure_aggregation.config import SecureAggregation


@given(threshold=st.floats(0.5, 1.0, exclude_min=True), cohort=st.integers(2, 500))
def test_the_threshold_is_the_ceiling_of_the_written_share(threshold, cohort):
    needed = SecureAggregation(threshold=threshold).survivors_needed(cohort)
    assert needed - 1 < Fraction(str(threshold)) * cohort <= needed
    assert cohort / 2 < needed <= cohort


def test_the_threshold_of_decimal_numbers():
    assert SecureAggregation(threshold=0.55).survivors_needed(100) == 55 != math.ceil(0.55 * 100)
    assert [SecureAggregation().survivors_needed(n) for n in (3, 4, 6, 7, 20, 100)] == [2, 3, 4, 5, 14, 67]
    assert SecureAggregation(neighbours=12).holders_needed(100) == 9


@pytest.mark.parametrize("bad", [{"threshold": 0.5}, {"threshold": 1.1}, {"neighbours": 3}, {"neighbours": 0}])
def test_settings_are_bounded(bad):
    with pytest.raises(ValidationError):
        SecureAggregation(**bad)
