"""Make the runs of a sweep that are not finished yet, several at a time, and survive whatever happens to them."""

from __future__ import annotations

import contextlib
import json
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from fedsim.scenario import Sweep
from fedsim.sweep.folder import Failed, SweepFolder
from fedsim.sweep.plan import Planned

Status = Literal["reused", "finished", "failed"]
_FAREWELL = 10.0


@dataclass(frozen=True)
class Outcome:
    """What came of one run: how long it took in seconds, and why it failed, if it did."""

    run: Planned
    status: Status
    seconds: float = 0.0
    failure: Failed | None = None


def sweep(
    folder: SweepFolder,
    runs: Sequence[Planned],
    settings: Sweep,
    *,
    jobs: int,
    command: str,
    budget: float | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _outcome: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Make every run that is not finished yet.

    Each worker is a process of its own. One that ends, hangs or outgrows its memory is replaced, and its run has
    failed; the others go on.

    Args:
        folder: prepared and locked.
        runs: the plan.
        settings: limits of a single run.
        jobs: workers, at least 1.
        command: the command line to keep in the records.
        budget: seconds after which no run begins any more.
        on_outcome: told of every run as it ends, from this thread.
        should_stop: asked between runs and while waiting; when it says yes, runs in progress are ended.

    Returns:
        What came of every run that was reused or tried.

    Raises:
        KeyboardInterrupt: it was asked to stop. Finished runs are kept.
    """
    finished = {run.digest for run in runs if folder.is_finished(run.digest)}
    done = [Outcome(run, "reused") for run in runs if run.digest in finished]
    for outcome in done:
        on_outcome(outcome)
    todo: queue.SimpleQueue[Planned] = queue.SimpleQueue()
    missing = [run for run in runs if run.digest not in finished]
    for run in missing:
        todo.put(run)
    ended: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    end = time.monotonic() + budget if budget is not None else None
    workers = [_Worker(folder, settings, number, command) for number in range(min(jobs, len(missing)))]
    threads = [threading.Thread(target=_work, args=(worker, todo, ended, end), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        return [*done, *_gathered(len(threads), ended, on_outcome, should_stop)]
    finally:
        for worker in workers:
            worker.stop()


def _gathered(
    threads: int,
    ended: queue.SimpleQueue[Outcome | None],
    on_outcome: Callable[[Outcome], None],
    should_stop: Callable[[], bool],
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while threads:
        if should_stop():
            raise KeyboardInterrupt
        try:
            outcome = ended.get(timeout=0.2)
        except queue.Empty:
            continue
        if outcome is None:
            threads -= 1
            continue
        outcomes.append(outcome)
        on_outcome(outcome)
    return outcomes


def _work(
    worker: _Worker, todo: queue.SimpleQueue[Planned], ended: queue.SimpleQueue[Outcome | None], end: float | None
) -> None:
    try:
        while end is None or time.monotonic() < end:
            try:
                run = todo.get_nowait()
            except queue.Empty:
                break
            ended.put(worker.make(run))
    finally:
        ended.put(None)


class _Worker:
    """A process that makes runs; a new one takes its place when it ends or is ended."""

    def __init__(self, folder: SweepFolder, settings: Sweep, number: int, command: str) -> None:
        self._folder = folder
        self._settings = settings
        self._log = folder.path / "logs" / f"worker-{number}.log"
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False

    def make(self, run: Planned) -> Outcome:
        begin = time.monotonic()
        failure = self._tried(run)
        if not self._is_stopped:
            self._folder.note(run.digest, failure)
        seconds = time.monotonic() - begin
        return Outcome(run, "failed" if failure else "finished", seconds, self._folder.failure(run.digest))

    def stop(self) -> None:
        self._is_stopped = True
        if self._process is not None:
            self._end()

    def _tried(self, run: Planned) -> Failed | None:
        process = self._running()
        path = self._folder.run_path(run.digest).resolve()
        order = {"scenario": run.scenario, "path": str(path), "command": self._command}
        limit = None if self._settings.minutes is None else 60.0 * self._settings.minutes
        answers = _pipe(process.stdout)
        with contextlib.suppress(OSError):  # a process that is gone says so by an empty answer
            _pipe(process.stdin).write(json.dumps(order) + "\n")
            _pipe(process.stdin).flush()
        if not select.select([answers], [], [], limit)[0]:
            self._end()
            return Failed(cause="timeout", why=f"it took longer than sweep.minutes = {self._settings.minutes:g}")
        line = answers.readline()
        if line:
            why = json.loads(line)["why"]
            return None if why is None else Failed(cause="error", why=why)
        status = self._end()
        why = f"its process ended with {status}, perhaps for lack of memory; logs/{self._log.name} holds what it said"
        return Failed(cause="killed", why=why)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            memory = str(self._settings.memory or 0)
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "fedsim.sweep.worker", memory],
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
