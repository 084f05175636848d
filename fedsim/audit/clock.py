"""A time budget: foreign code is interrupted when its share is used up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SOON = 1e-2
_GRACE = 5.0  # seconds, far longer than any switch takes: code that never leaves one is interrupted all the same
_SWITCHES = {"__enter__", "__exit__"}
_SWALLOWS = {"__del__", "gc_callback"}  # Python drops what is raised there, with a warning
_AGAIN = 1.0  # seconds until the signal is repeated, since foreign code may suppress one


class OutOfTime(BaseException):
    """A share of the time is used up. Not an `Exception`, so that code which catches all errors does not catch it."""


class AuditClock:
    """Counts down from the start of an audit."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self._begin = time.monotonic()
        self._end = self._begin + seconds

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside the block after this many seconds; in other threads than the main one do nothing.

    Blocks may be nested. The signal acts between two operations, so a long one runs to its end. An import is never
    interrupted, since that would leave a half-loaded module. Nor is a context that is being entered or left: it would
    never be undone, and torch.no_grad() would hold for the rest of the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = sys._getframe(2)  # behind this function and contextlib's
    begin = time.monotonic()

    def ring(_number: int, frame: FrameType | None) -> None:
        is_late = time.monotonic() - begin > seconds + _GRACE
        if not any(map(_imports, _frames(frame))) and (is_late or not any(map(_switches, _frames(frame, owner)))):
            raise OutOfTime
        signal.setitimer(signal.ITIMER_REAL, _SOON, _AGAIN)

    before = signal.signal(signal.SIGALRM, ring)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, _SOON), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - begin), _SOON), _AGAIN)


def _frames(frame: FrameType | None, owner: FrameType | None = None) -> Iterator[FrameType]:
    """Yield a frame and its callers, up to `owner` and without it."""
    while frame is not None and frame is not owner:
        yield frame
        frame = frame.f_back


def _imports(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def _switches(frame: FrameType) -> bool:
    """Return whether a context is being entered or left, or an object collected."""
    return frame.f_code.co_name in _SWITCHES | _SWALLOWS
