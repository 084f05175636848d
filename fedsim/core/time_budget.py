"""Budgets of processor seconds, with a wall-clock limit as a safety net.

A budget counts this process and all processes that it started, so a busy machine changes no result. `time_limit` sets a
budget for a block, in which work polls: `seconds_left`, or `check_deadline` between its parts. In nested blocks the
budget with the least left applies. `interrupt_on_timeout` ends user code, which polls nothing, by a signal.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Self

from fedsim.core.processor_time import processor_seconds, processor_seconds_of

OUT_OF_TIME = "out of time"
"""Stop reason of a search that reached its limit."""
WALL_LIMIT = 4.0
"""Wall-clock seconds for each processor second, where a budget must end although code sleeps or waits."""

_SOON = 1e-2
_TICK = 1.0  # seconds between two looks at the budget of interrupted code
_GRACE = 5.0  # seconds; a context switch that lasts longer is interrupted too
_SWITCHES = {"__enter__", "__exit__"}
_SWALLOWS = {"__del__", "gc_callback"}  # Python drops exceptions raised in it, with a warning


class DeadlineReached(BaseException):
    """A poll found the budget used up. Not an `Exception`, so that `except Exception` cannot swallow it."""


class TimeBudgetExceeded(BaseException):
    """A signal interrupted code whose budget is used up. Not an `Exception`, for the same reason."""


class TimeBudget:
    """Processor seconds, counted from the creation of the object.

    Args:
        seconds: of the processor.
        wall: wall-clock seconds, after which nothing is left either.
        pid: process that is measured, with all its descendants; None: this process.
    """

    def __init__(self, seconds: float = math.inf, *, wall: float = math.inf, pid: int | None = None) -> None:
        self._seconds, self._wall = seconds, wall
        self._measure = processor_seconds if pid is None else partial(processor_seconds_of, pid)
        self._begin = processor_seconds(is_fresh=True) if pid is None else self._measure()
        self._wall_begin = time.monotonic()

    @classmethod
    def with_wall_limit(cls, seconds: float, pid: int | None = None) -> Self:
        """Return a budget that also ends after `WALL_LIMIT` times as many wall-clock seconds."""
        return cls(seconds, wall=WALL_LIMIT * seconds, pid=pid)

    @property
    def used(self) -> float:
        """Processor seconds since the start."""
        return max(0.0, self._measure() - self._begin)

    @property
    def remaining_seconds(self) -> float:
        """The lesser of the processor seconds and wall-clock seconds left, at least 0; infinite without a limit."""
        left = self._seconds if math.isinf(self._seconds) else self._seconds - self.used
        wall = self._wall if math.isinf(self._wall) else self._wall - (time.monotonic() - self._wall_begin)
        return max(0.0, min(left, wall))

    def check(self) -> None:
        """Raise if nothing is left.

        Raises:
            DeadlineReached: the budget is used up.
        """
        if self.remaining_seconds == 0.0:
            raise DeadlineReached(OUT_OF_TIME)


_current: ContextVar[TimeBudget | None] = ContextVar("budget of the block", default=None)


def current_budget() -> TimeBudget:
    """Return the budget of the innermost `time_limit` block, or a budget without a limit."""
    return _current.get() or TimeBudget()


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit the processor seconds of a block, including the processes that it starts; None sets no limit."""
    token = _current.set(TimeBudget(min(math.inf if seconds is None else seconds, seconds_left())))
    try:
        yield
    finally:
        _current.reset(token)


def seconds_left() -> float:
    """Return the processor seconds until the earliest limit, at least 0; infinite without a limit."""
    budget = _current.get()
    return math.inf if budget is None else budget.remaining_seconds


def check_deadline() -> None:
    """Raise if the budget of the block is used up.

    Raises:
        DeadlineReached: the budget is used up.
    """
    if (budget := _current.get()) is not None:
        budget.check()


@contextmanager
def interrupt_on_timeout(budget: TimeBudget) -> Iterator[None]:
    """Raise `TimeBudgetExceeded` in the block when a budget is used up.

    Args:
        budget: it may be shared by several blocks. `TimeBudget.with_wall_limit` also ends code that sleeps.

    Without effect outside the main thread. Blocks may be nested. The signal acts between two operations, so a long
    operation runs to its end. An import is not interrupted, because that would leave a half-loaded module. Neither is a
    context manager being entered or left: its exit would never run, and torch.no_grad(), for example, would stay active
    for the rest of the process. That protection ends `_GRACE` seconds after the limit. The exception is raised again
    every second, in case user code suppresses it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = sys._getframe(2)  # caller of this function and of contextlib's wrapper
    rung_at: list[float] = []

    def ring(_number: int, frame: FrameType | None) -> None:
        if (left := budget.remaining_seconds) > 0:
            _set_alarm(left)
            return
        rung_at.append(time.monotonic())
        is_late = rung_at[-1] - rung_at[0] > _GRACE
        if not any(map(_imports, _frames(frame))) and (is_late or not any(map(_switches, _frames(frame, owner)))):
            _set_alarm(_TICK)
            raise TimeBudgetExceeded
        _set_alarm(_SOON)

    before, begin = signal.signal(signal.SIGALRM, ring), time.monotonic()
    outer, interval = _set_alarm(budget.remaining_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:  # the alarm of an outer block, which then looks at its own budget, or of the host
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - begin), _SOON), interval)


def _set_alarm(seconds: float) -> tuple[float, float]:
    return signal.setitimer(signal.ITIMER_REAL, min(max(seconds, _SOON), _TICK))


def _frames(frame: FrameType | None, owner: FrameType | None = None) -> Iterator[FrameType]:
    """Yield a frame and its callers, up to but excluding `owner`."""
    while frame is not None and frame is not owner:
        yield frame
        frame = frame.f_back


def _imports(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def _switches(frame: FrameType) -> bool:
    """Return whether a context manager is being entered or left, or an object collected."""
    return frame.f_code.co_name in _SWITCHES | _SWALLOWS
