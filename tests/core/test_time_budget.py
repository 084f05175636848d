"""A budget interrupts foreign code, also code that survives every error, and one block inside another."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedsim.core import time_budget
from fedsim.core.time_budget import DeadlineReached, TimeBudget, TimeBudgetExceeded, interrupt_on_timeout


def stubborn() -> None:
    while True:
        try:
            math.sqrt(2.0)
        except Exception:
            continue


def test_code_that_catches_every_exception_is_ended() -> None:
    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.05)):
        stubborn()


def test_the_outer_block_still_ends_after_an_inner_one() -> None:
    ended: list[str] = []

    def both() -> None:
        try:
            with interrupt_on_timeout(TimeBudget.with_wall_limit(0.05)):
                stubborn()
        except TimeBudgetExceeded:
            ended.append("inner")
        stubborn()

    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.3)):
        both()
    assert ended == ["inner"]


def test_blocks_that_share_a_budget_end_together_also_at_the_wall_clock_limit() -> None:
    budget = TimeBudget.with_wall_limit(0.1)
    while budget.used < 0.05:
        math.sqrt(2.0)
    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(budget):
        time.sleep(60)
    assert budget.remaining_seconds == 0.0


def test_an_import_is_not_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nwhole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def imports_then_waits() -> None:
        import slow_module

        assert slow_module.whole
        stubborn()

    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.05)):
        imports_then_waits()


def switching() -> None:
    while True:
        with torch.no_grad():
            torch.ones(2).sum()


def test_gradients_are_as_before_wherever_a_block_is_interrupted() -> None:
    for _ in range(40):  # without care, more than half of these interruptions left gradients switched off
        with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.01)):
            switching()
        assert torch.is_grad_enabled()


class Endless:
    def __enter__(self) -> None:
        stubborn()

    def __exit__(self, *_error: object) -> None:
        pass


def test_a_context_that_never_opens_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "_GRACE", 0.05)
    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.05)), Endless():
        pass


def test_after_a_block_nothing_rings() -> None:
    with interrupt_on_timeout(TimeBudget.with_wall_limit(0.05)):
        pass
    time.sleep(0.1)


@pytest.mark.parametrize(("outer", "took", "left"), [(7.0, 0.5, [6.5]), (7.0, 9.0, [0.01]), (0.0, 0.5, [])])
def test_the_alarm_of_an_outer_block_or_of_the_host_has_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, outer: float, took: float, left: list[float]
) -> None:
    now, rung = [100.0], list[tuple[float, float]]()

    def setitimer(_which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        rung.append((seconds, interval))
        return outer, 3.0

    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    timer = {"setitimer": setitimer, "signal": lambda *_: None, "SIGALRM": 14, "ITIMER_REAL": 0}
    monkeypatch.setattr(time_budget, "signal", SimpleNamespace(**timer))
    monkeypatch.setattr(time_budget, "processor_seconds", lambda **_: 1.0)
    with interrupt_on_timeout(TimeBudget.with_wall_limit(0.5)):
        now[0] += took
    assert rung == [(0.5, 0.0), (0, 0.0), *((seconds, 3.0) for seconds in left)]


def test_code_that_sleeps_is_ended_by_the_wall_clock() -> None:
    begin, used = time.monotonic(), time.process_time()
    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.1)):
        time.sleep(60)
    assert 0.4 <= time.monotonic() - begin < 30
    assert time.process_time() - used < 0.1


def test_the_outer_block_ends_after_an_inner_one_that_takes_longer() -> None:
    ended: list[str] = []

    def both() -> None:
        with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.2)):
            stubborn()
        ended.append("inner")
        stubborn()

    with pytest.raises(TimeBudgetExceeded), interrupt_on_timeout(TimeBudget.with_wall_limit(0.1)):
        both()
    assert ended == ["inner"]


@pytest.mark.parametrize(("seconds", "wall", "left"), [(8.0, 99.0, 5.0), (99.0, 8.0, 1.0), (2.0, 99.0, 0.0), (9, 7, 0)])
def test_the_lesser_of_processor_and_wall_clock_is_left(
    monkeypatch: pytest.MonkeyPatch, seconds: float, wall: float, left: float
) -> None:
    used, now = [10.0], [100.0]
    monkeypatch.setattr(time_budget, "processor_seconds", lambda **_: used[0])
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    budget = TimeBudget(seconds, wall=wall)
    used[0], now[0] = 13.0, 107.0
    assert (budget.used, budget.remaining_seconds) == (3.0, left)
    if left:
        budget.check()
    else:
        with pytest.raises(DeadlineReached, match="out of time"):
            budget.check()


def test_a_wall_limit_is_some_times_the_processor_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(time_budget, "processor_seconds", lambda **_: 1.0)
    budget = TimeBudget.with_wall_limit(5.0)
    assert budget.remaining_seconds == 5.0
    now[0] += 18.0
    assert budget.remaining_seconds == 2.0


def test_a_budget_without_limits_never_ends() -> None:
    assert TimeBudget().remaining_seconds == math.inf
    assert time_budget.seconds_left() == math.inf
    time_budget.check_deadline()


def test_the_budget_of_another_process_counts_that_process_and_its_children() -> None:
    busy = "import time\nwhile time.process_time() < 0.6: pass\nprint(flush=True)\ninput()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    child = subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    budget, own = TimeBudget(60.0, pid=child.pid), TimeBudget(60.0, pid=os.getpid())
    assert child.stdout is not None
    child.stdout.readline()
    spent = budget.used
    child.communicate(b"\n")
    assert 0.4 < spent < 30
    assert own.used >= spent
    assert 60.0 - budget.remaining_seconds <= spent + 1


def test_a_budget_never_shows_less_than_nothing() -> None:
    assert TimeBudget(-1).remaining_seconds == 0
    assert 0 < TimeBudget(60).remaining_seconds <= 60
