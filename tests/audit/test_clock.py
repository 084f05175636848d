"""The clock interrupts foreign code, also code that survives every error, and one block inside another."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedsim.audit import clock
from fedsim.audit.clock import AuditClock, OutOfTime, limit


def stubborn() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def test_code_that_catches_every_exception_is_ended() -> None:
    with pytest.raises(OutOfTime), limit(0.05):
        stubborn()


def test_the_outer_block_still_ends_after_an_inner_one() -> None:
    ended: list[str] = []

    def both() -> None:
        try:
            with limit(0.05):
                stubborn()
        except OutOfTime:
            ended.append("inner")
        stubborn()

    with pytest.raises(OutOfTime), limit(0.3):
        both()
    assert ended == ["inner"]


def test_an_import_is_not_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def imports_then_waits() -> None:
        import slow_module

        assert slow_module.whole
        stubborn()

    with pytest.raises(OutOfTime), limit(0.05):
        imports_then_waits()


def switching() -> None:
    while True:
        with torch.no_grad():
            torch.ones(2).sum()


def test_gradients_are_as_before_wherever_a_block_is_interrupted() -> None:
    for _ in range(40):  # without care, more than half of these interruptions left gradients switched off
        with pytest.raises(OutOfTime), limit(0.01):
            switching()
        assert torch.is_grad_enabled()


class Endless:
    def __enter__(self) -> None:
        stubborn()

    def __exit__(self, *_error: object) -> None:
        pass


def test_a_context_that_never_opens_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_GRACE", 0.05)
    with pytest.raises(OutOfTime), limit(0.05), Endless():
        pass


def test_after_a_block_nothing_rings() -> None:
    with limit(0.05):
        pass
    time.sleep(0.1)


@pytest.mark.parametrize(("outer", "took", "left"), [(7.0, 0.5, [6.5]), (7.0, 9.0, [0.01]), (0.0, 0.5, [])])
def test_the_outer_block_has_the_time_that_the_inner_one_left(
    monkeypatch: pytest.MonkeyPatch, outer: float, took: float, left: list[float]
) -> None:
    now, rung = [100.0], list[float]()

    def setitimer(_which: int, seconds: float, _again: float = 0.0) -> tuple[float, float]:
        rung.append(seconds)
        return outer, 1.0

    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    timer = {"setitimer": setitimer, "signal": lambda *_: None, "SIGALRM": 14, "ITIMER_REAL": 0}
    monkeypatch.setattr(clock, "signal", SimpleNamespace(**timer))
    with limit(2.0):
        now[0] += took
    assert rung == [2.0, 0, *left]


def test_a_clock_never_shows_less_than_nothing() -> None:
    assert AuditClock(-1).left == 0
    assert 0 < AuditClock(60).left <= 60
