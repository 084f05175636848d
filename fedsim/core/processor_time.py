"""CPU time of a process and of all processes that it started."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from fedsim.core.supervisor import descendants

_STALE = 0.2  # seconds until the CPU time of other processes is read again, at a cost of milliseconds
_TRIES = 5  # readings while processes begin and end
_OWN_AND_WAITED_FOR = slice(11, 15)  # indices of utime, stime, cutime, cstime in /proc/PID/stat after the name


class _Started:
    """CPU time of the descendants, cached for `_STALE` seconds."""

    def __init__(self) -> None:
        self._read_at, self._seen, self._lost = -_STALE, 0.0, 0.0

    def seconds(self, *, is_fresh: bool) -> float:
        """Return the CPU seconds; never decreasing, although no parent adds the time of a process that it ignores.

        Ray's nodes ignore their workers' ends. The time of such a worker until the last reading is kept.
        """
        time_now = time.monotonic()
        if is_fresh or time_now - self._read_at >= _STALE:
            seen = _measure_children()
            self._lost += max(0.0, self._seen - seen)
            self._seen, self._read_at = seen, time_now
        return self._seen + self._lost


_child_processes = _Started()


def processor_seconds(*, is_fresh: bool = False) -> float:
    """Return the CPU seconds of this process and of all processes that it started, including ended ones.

    Such processes are isolated attacks, workers, and nodes of Ray or of a SuperLink. The time of an ended process is
    part of its parent's. Without /proc, as on macOS, only ended processes count.

    Args:
        is_fresh: whether the time of other processes must be current. Otherwise it may be 0.2 seconds old.
    """
    return time.process_time() + _child_processes.seconds(is_fresh=is_fresh)


def processor_seconds_of(pid: int) -> float:
    """Return the CPU seconds of another process and of all processes that it started; 0 if it has ended."""
    return _seconds([pid, *descendants(pid)])


def _measure_children() -> float:
    """Return the CPU seconds of ended children and of running descendants.

    A descendant that ends between the two readings would count twice or never, so the reading is repeated.
    """
    seconds, pids = 0.0, descendants(os.getpid())
    for _ in range(_TRIES):
        times = os.times()
        seconds = times.children_user + times.children_system + _seconds(pids)
        before, pids = pids, pids and descendants(os.getpid())
        if pids == before:
            break
    return seconds


def _seconds(pids: Sequence[int]) -> float:
    ticks = sum(map(_ticks, pids))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0


def _ticks(pid: int) -> int:
    """Return the CPU time of a process and of its ended children, in clock ticks; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[_OWN_AND_WAITED_FOR]))
