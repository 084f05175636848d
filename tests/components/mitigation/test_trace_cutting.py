"""Every text ends where the shortest ends, in the middle of a step if need be."""

from fedsim.components.mitigation.trace_cutting import TraceCutting, TraceCuttingConfig
from fedsim.core.types import Trace
from tests.components.mitigation.traces import LONG, SHORT, source


def test_every_text_is_as_long_as_the_shortest() -> None:
    short, long = TraceCutting(TraceCuttingConfig()).transform([SHORT, LONG], source())
    assert short == SHORT
    assert long == Trace((1, 2), LONG.events[:2])
