"""A subprocess of fedsim: start, messages and termination."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from fedsim.core import supervisor
from fedsim.core.errors import FedsimError
from fedsim.processes.frames import Frame, FrameAssembler

PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL
FAREWELL = 10.0  # seconds from the end of a program's output to its exit code
_LOOK_UP_EVERY = 0.1  # seconds
_MOST_AT_ONCE = 1 << 20  # bytes

Stream = IO[Any] | int | None


class ChannelClosed(FedsimError):
    """A subprocess has closed its standard output, or has ended, before a complete frame arrived."""


class ChildProcess:
    """A program in a session of its own, so that Ctrl-C in a terminal does not reach it.

    A supervisor runs the program, and ends it with all its descendants when this process ends, even if it is killed.
    Used as a context manager, this object ends the program and closes the pipes at the end of the block. By default,
    frames travel over pipes at standard input and output, and standard error is that of this process.

    Args:
        command: program and arguments; the program as an absolute path.
        env: environment variables; None: inherited from this process.
        cwd: working folder; None: inherited from this process.
        stdin, stdout, stderr: as in `subprocess.Popen`; an open log file, for example.
        patience: seconds that the supervisor gets to end the program and its descendants, before both are killed.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Stream = subprocess.PIPE,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = None,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._arrived, self._is_ended = FrameAssembler(), False
        self._process = subprocess.Popen(
            supervisor.command_of(command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while the program runs."""
        return self._process.poll()

    @property
    def stdout(self) -> IO[bytes]:
        """The unbuffered pipe from the program's standard output, for a program that writes no frames."""
        return _require_pipe(self._process.stdout)

    @property
    def stderr(self) -> IO[bytes]:
        """The unbuffered pipe from the program's standard error."""
        return _require_pipe(self._process.stderr)

    def send(self, content: bytes, check_cancelled: Callable[[], None] = lambda: None) -> None:
        """Write bytes to standard input. A program that has closed it loses them without an error.

        Args:
            content: to write.
            check_cancelled: called between pieces and every 0.1 s while the program reads nothing; may raise.
        """
        pipe, unsent = _require_pipe(self._process.stdin).fileno(), memoryview(content)
        while unsent:
            check_cancelled()
            if not select.select([], [pipe], [], _LOOK_UP_EVERY)[1]:
                continue
            try:
                unsent = unsent[os.write(pipe, unsent[:_MOST_AT_ONCE]) :]
            except BrokenPipeError:
                return

    def receive(self, limit: int, seconds: float | None = None) -> Frame | None:
        """Return the next frame; None if it has not arrived completely within some seconds, and a later call goes on.

        Args:
            limit: largest payload in bytes.
            seconds: that this call waits; None: until the frame arrives.

        Raises:
            ChannelClosed: the program has closed its standard output, perhaps within a frame.
            FrameError: the payload is longer.
        """
        pipe = self.stdout.fileno()
        deadline = None if seconds is None else time.monotonic() + seconds
        while (frame := self._arrived.take(limit)) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                return None
            piece = os.read(pipe, _MOST_AT_ONCE)
            if not piece:
                raise ChannelClosed("the subprocess has closed its output")
            self._arrived.add(piece)
            if left == 0:  # a program that writes without a pause
                return self._arrived.take(limit)
        return frame

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end of the program, and return its exit code; None if it still runs after some seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def terminate(self) -> None:
        """Send SIGTERM to the supervisor without waiting: it kills the program and all its descendants."""
        self._process.terminate()

    def end(self) -> int:
        """Have the supervisor end the program, or end both after the patience. Return the exit code.

        Another thread may wait in `receive` or `send` meanwhile.
        """
        self.terminate()
        self.wait(self._patience)
        self._kill_group()  # the group may outlive the supervisor
        code = self._process.wait()
        self._is_ended = True
        return code

    def close(self, grace: float = 0.0) -> int:
        """End the program, close the pipes, and return the exit code.

        Args:
            grace: seconds in which the program may end by itself, so that the exit code is its own.
        """
        self.wait(grace)
        code = self.end()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    def _kill_group(self) -> None:
        if self._is_ended:  # another process group may have the number now
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("the subprocess was started without this pipe")
    return pipe
