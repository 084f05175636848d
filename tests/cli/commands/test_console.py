"""Spans of time, text that is shown and not executed, and signals that are asked for."""

import signal

import pytest

from fedsim.cli.commands._console import ask_to_stop, say, screen, seconds
from fedsim.core.errors import FedsimError


@pytest.mark.parametrize(("text", "span"), [(None, None), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0)])
def test_spans_are_in_seconds(text: str | None, span: float | None) -> None:
    assert seconds(text) == span


@pytest.mark.parametrize("text", ["20", "m", "1d", "-1m", "1..5m", ""])
def test_what_is_no_span_is_told_with_an_example(text: str) -> None:
    with pytest.raises(FedsimError, match="expected a number with s, m or h, for example 20m"):
        seconds(text)


def test_a_title_with_terminal_commands_is_shown_and_not_executed() -> None:
    with screen.capture() as captured:
        say("red \x1b[31mtitle\x07")
    assert "\x1b[31m" not in captured.get()
    assert "\x07" not in captured.get()
    assert "title" in captured.get()


def test_the_first_signal_asks_and_the_second_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ask_to_stop() as event:
        assert not event.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
