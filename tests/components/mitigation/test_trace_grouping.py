"""Neighbouring steps are added up; the last group may be smaller."""

from fedsim.components.mitigation.trace_grouping import TraceGrouping, TraceGroupingConfig
from fedsim.core.types import Event, Trace
from tests.components.mitigation.traces import LONG, SHORT, source


def test_steps_are_added_up() -> None:
    short, long = TraceGrouping(TraceGroupingConfig(steps=3)).transform([SHORT, LONG], source())
    assert short == Trace((3,), (Event(accepted=3, layers=8),))
    assert long == Trace((4, 1), (Event(accepted=4), Event(accepted=1)))


def test_which_places_a_step_wrote_is_not_shown_behind_a_group() -> None:
    filled = Trace((1, 2), (Event(accepted=1), Event(accepted=2)), ((1,), (0, 2)))
    assert TraceGrouping(TraceGroupingConfig(steps=2)).transform([filled], source()) == [
        Trace((3,), (Event(accepted=3),))
    ]
