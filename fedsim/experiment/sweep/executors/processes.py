"""Local worker processes with one thread each. Orders and answers are lines of JSON over pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO

from fedsim.core.process import command_of
from fedsim.experiment.sweep.executors import RunOrder, Worker, failure_of
from fedsim.experiment.sweep.folder import Failed
from fedsim.record.atomic_files import is_full, open_log
from fedsim.scenario import Sweep

_FAREWELL = 10.0


class ProcessExecutor:
    """Executor on this machine."""

    def worker(self, number: int, settings: Sweep, log: Path) -> Worker:
        """Return a worker; its process starts with its first run."""
        return _Process(settings, log)


class _Process:
    """A worker process, restarted after it ends or is killed.

    One thread calls `make` and is the only reader of the process's output; another thread may call `stop`.
    """

    def __init__(self, settings: Sweep, log: Path) -> None:
        self._settings, self._log = settings, log
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False
        self._in_use = threading.Lock()

    def make(self, order: RunOrder) -> Failed | None:
        with self._in_use:
            if self._is_stopped:
                return Failed(cause="killed", why="the sweep was stopped before it began")
            try:
                process = self._running()
            except OSError as error:
                cause = "disk" if is_full(error) else "error"
                return Failed(cause=cause, why=f"no process could be started for it: {error}")
            return self._made(process, order)

    def stop(self) -> None:
        self._is_stopped = True
        self._kill()
        if self._in_use.acquire(timeout=_FAREWELL):
            try:
                self._end()
            finally:
                self._in_use.release()

    def _made(self, process: subprocess.Popen[str], order: RunOrder) -> Failed | None:
        limit = None if self._settings.minutes is None else 60.0 * self._settings.minutes
        answers = _pipe(process.stdout)
        with contextlib.suppress(OSError):  # a dead process is detected by its empty answer
            _pipe(process.stdin).write(json.dumps(asdict(order)) + "\n")
            _pipe(process.stdin).flush()
        if not select.select([answers], [], [], limit)[0]:
            self._end()
            return Failed(cause="timeout", why=f"it took longer than sweep.minutes = {self._settings.minutes:g}")
        line = answers.readline()
        if line:
            return failure_of(json.loads(line))
        status = self._end()
        why = f"its process ended with {status}, perhaps for lack of memory; its output is in logs/{self._log.name}"
        return Failed(cause="killed", why=why)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            memory = str(self._settings.memory or 0)
            with open_log(self._log) as log:
                self._process = subprocess.Popen(
                    command_of("fedsim.experiment.sweep.executors.worker", memory),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=Path.cwd(),
                    start_new_session=True,
                )
        return self._process

    def _kill(self) -> None:
        """Kill the process and its children, which would keep the pipe open."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _end(self) -> int | None:
        self._kill()
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()
        return process.wait(_FAREWELL)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
