"""Named counts are rounded down to classes, or told as 0; packets and the other counts stay."""

from fedsim.components.mitigation.trace_redaction import TraceRedaction, TraceRedactionConfig
from fedsim.core.types import Event, Trace
from tests.components.mitigation.traces import LONG, SHORT, source


def test_nothing_is_told_of_any_count() -> None:
    short, long = TraceRedaction(TraceRedactionConfig()).transform([SHORT, LONG], source())
    assert short == Trace((2, 1), (Event(accepted=0, layers=0), Event(accepted=0, layers=0)))
    assert long.tokens == LONG.tokens
    assert {count for event in long.events for count in event.values()} == {0}


def test_named_counts_are_told_in_classes() -> None:
    (short,) = TraceRedaction(TraceRedactionConfig(counts=("layers",), size=4)).transform([SHORT], source())
    assert short == Trace((2, 1), (Event(accepted=2, layers=4), Event(accepted=1, layers=0)))
