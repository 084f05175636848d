"""A time budget that is kept: foreign code is interrupted when its share is used up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SOON = 1e-2
_AGAIN = 1.0  # seconds until the signal is repeated, since foreign code may swallow one


class OutOfTime(BaseException):
    """A share of the clock is used up. No `Exception`: code that survives every error must not survive this."""


class Clock:
    """Counts down from the start of an audit."""

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._begin = time.monotonic()
        self._end = self._begin + seconds

    @property
    def left(self) -> float:
        """Seconds left, not below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begin


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside the block after so many seconds; outside of a process's main thread nothing happens.

    Blocks may stand in one another. The signal is heard between two operations, so a long one runs to its end; an
    import is never interrupted, since that would leave half a module behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, frame: FrameType | None) -> None:
        if not _is_importing(frame):
            raise OutOfTime
        signal.setitimer(signal.ITIMER_REAL, _SOON, _AGAIN)

    begin = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, _SOON), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - begin), _SOON), _AGAIN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
