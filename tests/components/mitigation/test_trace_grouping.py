"""Neighbouring steps are added up; the last group may be smaller."""

from fedsim.components.mitigation.trace_grouping import TraceGrouping, TraceGroupingConfig
from fedsim.core.types import Event, Trace
from tests.components.mitigation.traces import LONG, SHORT, source


def test_steps_are_added_up() -> None:
    short, long = TraceGrouping(TraceGroupingConfig(steps=3)).veil([SHORT, LONG], source())
    assert short == Trace((3,), (Event(accepted=3, layers=8),))
    assert long == Trace((4, 1), (Event(accepted=4), Event(accepted=1)))
