"""A small process that ends what a run started on this machine, when the run was killed and cannot.

It is told the process groups, a line each, and that all is well with a last line. When its input ends without that line
it ends the groups and removes their folder. It is started as a file and needs nothing but Python's own modules.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

_DONE = "done"
_PATIENCE = 5.0  # seconds in which a process that was killed may still hold or write a file
_POLL_INTERVAL = 0.1


class Guardian:
    """Told of every process group while the run lives."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def watch(self, group: int) -> None:
        """Have a process group ended with this process."""
        self._tell(str(group))

    def dismiss(self) -> None:
        """Say that everything is ended and removed."""
        self._tell(_DONE)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guardian; the run goes on without it
            self._pipe.write(f"{line}\n")
            self._pipe.flush()


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[Guardian]:
    """Start a guardian of this folder and of the groups that it will be told of."""
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdin is not None
    guardian = Guardian(process.stdin)
    try:
        yield guardian
    finally:
        guardian.dismiss()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def serve(lines: Iterable[str], folder: Path) -> None:
    """Wait for the end of the lines, and end the groups unless the last line says that all is well."""
    groups: list[int] = []
    for line in lines:
        if line.strip() == _DONE:
            return
        groups.append(int(line))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_POLL_INTERVAL)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin, Path(sys.argv[1]))
