"""A small process that runs one program and ends it together with all that it started.

It ends them when the program ends, when it is told to (SIGTERM), and when the process that started it ends, however
that ends. A program that leaves its group, its session or its parent stays its descendant: Linux hands orphans to the
nearest subreaper above them, which is this process. It is started as a file and needs nothing but Python's own modules.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_DIE_WITH_PARENT = 1
_ADOPT_ORPHANS = 36
_GAIN_NO_PRIVILEGES = 38  # a program that changes its user could not be ended
_PAUSE = 0.01
_IGNORED = (signal.SIGINT, signal.SIGHUP)  # of a terminal; whoever started this ends it
_AWAITED = (signal.SIGCHLD, signal.SIGTERM)


def command_of(program: Sequence[str]) -> list[str]:
    """Return the command that keeps a program; it is to be started by this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *program]


def keep(program: Sequence[str]) -> int:
    """Run a program until it ends or somebody asks for it, end what it started, and return its wait status.

    The signals that are awaited must be blocked. Standard input and output go to the program alone.
    """
    child = os.fork()
    if child == 0:
        _become(program)
    for stream in (0, 1):
        os.close(stream)  # their other ends see that the program has ended
    status = None
    while status is None:
        is_asked = signal.sigwait(_AWAITED) == signal.SIGTERM
        status = end_descendants(child) if is_asked else _reap(child)
    end_descendants(child)
    return status


def end_descendants(child: int) -> int:
    """End every descendant of this process, and return the wait status of one child, 0 where it was reaped before."""
    status = 0
    while True:
        status = _reap(child) or status
        living = descendants(os.getpid())
        if not living:
            return status
        for pid in living:  # first all stop, so that none can start another while they end
            _send(pid, signal.SIGSTOP)
        for pid in descendants(os.getpid()):
            _send(pid, signal.SIGKILL)
        signal.sigtimedwait(_AWAITED, _PAUSE)


def descendants(of: int) -> list[int]:
    """Return the processes that a process started, and those that they started, parents first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    processes = children.get(of, [])
    for pid in processes:
        processes.extend(children.get(pid, []))
    return processes


def _become(program: Sequence[str]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    libc = ctypes.CDLL(None)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    libc.prctl(_GAIN_NO_PRIVILEGES, 1, 0, 0, 0)
    try:
        os.execv(program[0], list(program))
    finally:
        os._exit(127)


def _reap(child: int) -> int | None:
    """Wait for every child that has ended, and return the wait status of this one, None while it lives."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = ended[1] if ended[0] == child else status
    return status


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _serve(parent: int, program: Sequence[str]) -> None:
    """Keep a program, and end as it ended."""
    libc = ctypes.CDLL(None)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    libc.prctl(_ADOPT_ORPHANS, 1)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    if os.getppid() != parent:
        return
    code = os.waitstatus_to_exitcode(keep(program))
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
