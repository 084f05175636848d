"""All traces become one: that of the largest counts, for as many steps as the longest has."""

from fedsim.components.mitigation.trace_padding import TracePadding, TracePaddingConfig
from fedsim.core.types import Event, Trace
from tests.components.mitigation.traces import LONG, SHORT, source


def test_every_text_shows_the_same() -> None:
    first, second = TracePadding(TracePaddingConfig()).transform([SHORT, LONG], source())
    assert first == second == Trace((3,) * 4, (Event(accepted=3, layers=5),) * 4)
