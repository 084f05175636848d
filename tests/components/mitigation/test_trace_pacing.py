"""Tokens leave one by one; the work stays to be seen."""

from fedsim.components.mitigation.trace_pacing import TracePacing, TracePacingConfig
from fedsim.core.types import Trace
from tests.components.mitigation.traces import LONG, SHORT, source


def test_tokens_leave_one_by_one_and_the_work_stays() -> None:
    hidden = TracePacing(TracePacingConfig()).transform([SHORT, LONG], source())
    assert hidden == [Trace((1,) * 3, SHORT.events), Trace((1,) * 5, LONG.events)]
