"""Local worker processes with one thread each. Orders and answers are frames of JSON."""

from __future__ import annotations

import math
import threading
from dataclasses import asdict
from pathlib import Path

from fedsim.core.process import command_of
from fedsim.core.time_budget import TimeBudget
from fedsim.experiment.sweep.executors import RunOrder, Worker, failure_of
from fedsim.experiment.sweep.folder import Failed
from fedsim.processes import frames
from fedsim.processes.child_process import FAREWELL, ChannelClosed, ChildProcess
from fedsim.record.atomic_files import is_full, open_log
from fedsim.scenario import Sweep

_MOST_ANSWER = 1 << 20  # bytes
_TICK = 1.0  # seconds between two looks at the processor time of a run


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
        self._child: ChildProcess | None = None
        self._is_stopped = False
        self._in_use = threading.Lock()

    def make(self, order: RunOrder) -> Failed | None:
        with self._in_use:
            if self._is_stopped:
                return Failed(cause="killed", why="the sweep was stopped before it began")
            try:
                child = self._ensure_child()
            except OSError as error:
                cause = "disk" if is_full(error) else "error"
                return Failed(cause=cause, why=f"no process could be started for it: {error}")
            return self._make_run(child, order)

    def stop(self) -> None:
        self._is_stopped = True
        if (child := self._child) is not None:
            child.end()
        if self._in_use.acquire(timeout=FAREWELL):
            try:
                self._close()
            finally:
                self._in_use.release()

    def _make_run(self, child: ChildProcess, order: RunOrder) -> Failed | None:
        seconds = math.inf if self._settings.minutes is None else 60.0 * self._settings.minutes
        budget = TimeBudget.with_wall_limit(seconds, child.pid)
        child.send(frames.json_frame(asdict(order)))
        try:
            while (left := budget.remaining_seconds) > 0:
                answer = child.receive(_MOST_ANSWER, min(left, _TICK))
                if answer is not None:
                    return failure_of(answer.json())
        except ChannelClosed:
            why = f"its process ended with {self._close(FAREWELL)}, perhaps for lack of memory; {self._log_hint}"
            return Failed(cause="killed", why=why)
        except frames.FrameError as error:
            self._close()
            return Failed(cause="killed", why=f"its process sent {error}; {self._log_hint}")
        self._close()
        return Failed(cause="timeout", why=f"it took longer than sweep.minutes = {self._settings.minutes:g}")

    @property
    def _log_hint(self) -> str:
        return f"logs/{self._log.name} holds what it said"

    def _ensure_child(self) -> ChildProcess:
        if self._child is None:
            command = command_of("fedsim.experiment.sweep.executors.worker", str(self._settings.memory or 0))
            with open_log(self._log) as log:
                self._child = ChildProcess(command, stderr=log)
        return self._child

    def _close(self, grace: float = 0.0) -> int | None:
        child, self._child = self._child, None
        return None if child is None else child.close(grace)
