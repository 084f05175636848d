"""Runs in processes of this machine, one thread each. Orders and answers are lines of JSON over pipes."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO

from fedsim.experiment.sweep.executors import Order, Worker, failure_of
from fedsim.experiment.sweep.folder import Failed
from fedsim.scenario import Sweep

_FAREWELL = 10.0


class Processes:
    """The executor of this machine."""

    def worker(self, number: int, settings: Sweep, log: Path) -> Worker:
        """Return a worker; its process starts with its first run."""
        return _Process(settings, log)


class _Process:
    """A process that makes runs; a new one takes its place when it ends or is ended."""

    def __init__(self, settings: Sweep, log: Path) -> None:
        self._settings, self._log = settings, log
        self._process: subprocess.Popen[str] | None = None

    def make(self, order: Order) -> Failed | None:
        process = self._running()
        limit = None if self._settings.minutes is None else 60.0 * self._settings.minutes
        answers = _pipe(process.stdout)
        with contextlib.suppress(OSError):  # a process that is gone says so by an empty answer
            _pipe(process.stdin).write(json.dumps(asdict(order)) + "\n")
            _pipe(process.stdin).flush()
        if not select.select([answers], [], [], limit)[0]:
            self._end()
            return Failed(cause="timeout", why=f"it took longer than sweep.minutes = {self._settings.minutes:g}")
        line = answers.readline()
        if line:
            return failure_of(json.loads(line))
        status = self._end()
        why = f"its process ended with {status}, perhaps for lack of memory; logs/{self._log.name} holds what it said"
        return Failed(cause="killed", why=why)

    def stop(self) -> None:
        if self._process is not None:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            memory = str(self._settings.memory or 0)
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "fedsim.experiment.sweep.executors.worker", memory],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=Path.cwd(),
                    start_new_session=True,
                )
        return self._process

    def _end(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()
        return process.wait(_FAREWELL)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
