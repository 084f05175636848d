"""Membership attacks of an audit: why one was left out."""

from fedsim.audit.members import _too_long
from fedsim.core.types import ShadowPlan


def test_what_is_left_out_for_lack_of_time_says_how_much_it_needs() -> None:
    assert _too_long(None, 0.0, 12.3) == "the 12 s for membership attacks were over; give more minutes"
    said = _too_long(ShadowPlan(count=16, with_candidates=True), 240.0, 30.0)
    assert said == (
        "its 16 shadow models take about 240 s, more than is left of the 30 s for membership attacks; give more minutes"
    )
