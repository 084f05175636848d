"""Execute the unfinished runs of a sweep in parallel workers, robust against crashes and timeouts."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedsim.core.errors import FedsimError
from fedsim.experiment.sweep.executors import Executor, Worker, order_of
from fedsim.experiment.sweep.folder import Failed, SweepFolder
from fedsim.experiment.sweep.plan import Planned
from fedsim.scenario import Scenario, Sweep, arms
from fedsim.scenario.installed import check_installed

Status = Literal["reused", "finished", "failed"]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: its duration in seconds, and its failure, if any."""

    run: Planned
    status: Status
    seconds: float = 0.0
    failure: Failed | None = None


def sweep(
    folder: SweepFolder,
    runs: Sequence[Planned],
    settings: Sweep,
    *,
    executor: Executor,
    jobs: int,
    command: str,
    budget: float | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _outcome: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Execute every unfinished run.

    Each worker is a separate process. A worker that ends, hangs or exceeds its memory is replaced, and its run has
    failed; the others continue. When the disk is full, no further run starts.

    Args:
        folder: prepared and locked folder.
        runs: the plan.
        settings: limits of a single run.
        executor: executor of the runs.
        jobs: number of workers, at least 1.
        command: command line for the records.
        budget: seconds after which no further run starts.
        on_outcome: called with the outcome of every run, in this thread.
        should_stop: polled between runs and while waiting; True aborts runs in progress.

    Returns:
        The outcomes of all reused and attempted runs.

    Raises:
        FedsimError: a requirement of a run is not installed; no run has started.
        KeyboardInterrupt: a stop was requested. Finished runs are kept.
    """
    finished = {run.digest for run in runs if folder.is_finished(run.digest)}
    done = [Outcome(run, "reused") for run in runs if run.digest in finished]
    for outcome in done:
        on_outcome(outcome)
    todo: queue.SimpleQueue[Planned] = queue.SimpleQueue()
    missing = [run for run in runs if run.digest not in finished]
    check_installed(single for text in _unlike(missing) for _, single in arms(Scenario.model_validate_json(text)))
    for run in missing:
        todo.put(run)
    ended: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    end = time.monotonic() + budget if budget is not None else None
    desk = _Desk(folder, command, todo, ended, end)
    workers = [executor.worker(n, settings, folder.log(n)) for n in range(min(jobs, len(missing)))]
    threads = [threading.Thread(target=desk.work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        return [*done, *_gather(len(threads), ended, on_outcome, should_stop)]
    finally:
        desk.is_closed = True
        for worker in workers:
            worker.stop()


def _gather(
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


def _unlike(runs: Sequence[Planned]) -> list[str]:
    """Return a scenario for each distinct data set, model and arms, because their requirements may differ."""
    unlike: dict[str, str] = {}
    for run in runs:
        raw = json.loads(run.scenario)
        unlike.setdefault(json.dumps([raw[key] for key in ("data", "model", "arms")]), run.scenario)
    return list(unlike.values())


@dataclass
class _Desk:
    """Queue of runs and outcomes, shared by the worker threads until it is closed."""

    folder: SweepFolder
    command: str
    todo: queue.SimpleQueue[Planned]
    outcomes: queue.SimpleQueue[Outcome | None]
    end: float | None
    is_closed: bool = field(default=False)

    def work(self, worker: Worker) -> None:
        """Execute runs with a worker until the queue is empty, closed or past its end time."""
        try:
            while not self.is_closed and (self.end is None or time.monotonic() < self.end):
                try:
                    run = self.todo.get_nowait()
                except queue.Empty:
                    break
                self.outcomes.put(self._make_run(worker, run))
        finally:
            self.outcomes.put(None)

    def _make_run(self, worker: Worker, run: Planned) -> Outcome:
        begin = time.monotonic()
        failure = worker.make(order_of(run, self.folder.run_path(run.digest), self.command))
        if failure is not None and failure.cause == "disk":
            self.is_closed = True
        elif not self.is_closed:
            with contextlib.suppress(FedsimError):  # the next attempt fails in the same way, or succeeds
                failure = self.folder.note(run.digest, failure)
        return Outcome(run, "failed" if failure else "finished", time.monotonic() - begin, failure)
