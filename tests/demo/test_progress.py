"""The time left of a recording."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedsim.demo import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_recording_tells_how_much_time_is_left_where_there_is_no_bar(clock: list[float]) -> None:
    out = io.StringIO()
    with progress.counted(Console(file=out, width=100)) as told:
        for seconds, done in ((0.0, 0), (4.0, 1), (12.0, 2), (13.0, 3), (30.0, 4)):
            clock[0] = seconds
            told(done, 6)
    assert out.getvalue().splitlines() == [
        "  2 of 6 settings recorded, about 24 s left",
        "  4 of 6 settings recorded, about 15 s left",
    ]


def test_settings_that_were_recorded_before_took_no_time(clock: list[float]) -> None:
    out = io.StringIO()
    with progress.counted(Console(file=out, width=100)) as told:
        told(40, 44)
        clock[0] = 20.0
        told(42, 44)
    assert out.getvalue().splitlines() == ["  42 of 44 settings recorded, about 20 s left"]


def test_on_a_terminal_it_is_a_bar(clock: list[float]) -> None:
    out = io.StringIO()
    with progress.counted(Console(file=out, width=100, force_terminal=True)) as told:
        clock[0] = 99.0
        told(3, 3)
    assert "3/3" in out.getvalue()
    assert "recorded" not in out.getvalue()
