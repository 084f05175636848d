"""Time limits for user code: a signal interrupts the code when its share of the time is used up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SOON = 1e-2
_GRACE = 5.0  # seconds; a context switch that lasts longer is interrupted too
_SWITCHES = {"__enter__", "__exit__"}
_SWALLOWS = {"__del__", "gc_callback"}  # Python drops exceptions raised there, with a warning
_AGAIN = 1.0  # seconds until the signal is repeated, in case user code suppressed the exception


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
    """Raise `OutOfTime` in the block after this many seconds; without effect outside the main thread.

    Blocks may be nested. The signal acts between two operations, so a long operation runs to its end. An import is not
    interrupted, because that would leave a half-loaded module. Neither is a context manager being entered or left: its
    exit would never run, and torch.no_grad(), for example, would stay active for the rest of the process. That
    protection ends `_GRACE` seconds after the limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = sys._getframe(2)  # caller of this function and of contextlib's wrapper
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
    """Yield a frame and its callers, up to but excluding `owner`."""
    while frame is not None and frame is not owner:
        yield frame
        frame = frame.f_back


def _imports(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def _switches(frame: FrameType) -> bool:
    """Return whether a context manager is being entered or left, or an object collected."""
    return frame.f_code.co_name in _SWITCHES | _SWALLOWS
