"""Which rounds count as drafted by an exit."""

import pytest

from benchmarks.decoders import Timed
from benchmarks.trained_exits import drafting
from fedsim.core.types import Event, Generated, Trace


def test_a_round_without_a_draft_is_no_exits() -> None:
    events = (
        Event(exit=4, proposed=1),
        Event(exit=4, proposed=0),
        Event(exit=8, proposed=3),
        Event(exit=4, proposed=2),
    )
    own = Timed(Generated(Trace((1, 1, 2, 1), events), "length", (1,) * 5), 0.0)
    assert [drafting(own, layers) for layers in (4, 8, 20)] == pytest.approx([0.5, 0.25, 0.0])
