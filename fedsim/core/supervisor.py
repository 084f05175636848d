"""Supervisor: a small process that runs a program and ends all of its descendants.

They end with the program, on SIGTERM, and with the parent of this process, even if it is killed. A program that leaves
its process group, its session or its parent stays a descendant: Linux reparents orphans to the nearest subreaper, which
is this process. The supervisor is started as a file, and uses only the standard library.
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
_GAIN_NO_PRIVILEGES = 38  # a program under another user could not be killed
_PAUSE = 0.01
_IGNORED = (signal.SIGINT, signal.SIGHUP)  # signals of a terminal; the parent ends this process
_AWAITED = (signal.SIGCHLD, signal.SIGTERM)


def command_of(program: Sequence[str]) -> list[str]:
    """Return the command that runs a program under a supervisor, to be started by this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *program]


def keep(program: Sequence[str]) -> int:
    """Run a program until it ends or SIGTERM arrives, end its descendants, and return its wait status.

    The awaited signals must be blocked. Only the program keeps standard input and output.
    """
    child = os.fork()
    if child == 0:
        _become(program)
    for stream in (0, 1):
        os.close(stream)  # so that their other ends see the end of the program
    status = None
    while status is None:
        is_asked = signal.sigwait(_AWAITED) == signal.SIGTERM
        status = end_descendants(child) if is_asked else _reap(child)
    end_descendants(child)
    return status


def end_descendants(child: int) -> int:
    """End every descendant of this process, and return the wait status of `child`, 0 if it was reaped before."""
    status = 0
    while True:
        status = _reap(child) or status
        living = descendants(os.getpid())
        if not living:
            return status
        for pid in living:  # stop all first, so that none can start another process meanwhile
            _send(pid, signal.SIGSTOP)
        for pid in descendants(os.getpid()):
            _send(pid, signal.SIGKILL)
        signal.sigtimedwait(_AWAITED, _PAUSE)


def descendants(ancestor: int) -> list[int]:
    """Return the children of a process and all their descendants, parents first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    processes = children.get(ancestor, [])
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
    """Reap all ended children, and return the wait status of `child`, None while it is running."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = ended[1] if ended[0] == child else status
    return status


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _serve(parent: int, program: Sequence[str]) -> None:
    """Run a program, and end with its exit status."""
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
