"""Make the runs of a sweep that are not finished yet, several at a time, and survive whatever happens to them."""

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
    executor: Executor,
    jobs: int,
    command: str,
    budget: float | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _outcome: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Make every run that is not finished yet.

    Each worker is a process of its own. One that ends, hangs or outgrows its memory is replaced, and its run has
    failed; the others go on. When the disk is full no run begins any more.

    Args:
        folder: prepared and locked.
        runs: the plan.
        settings: limits of a single run.
        executor: where they are made.
        jobs: workers, at least 1.
        command: the command line to keep in the records.
        budget: seconds after which no run begins any more.
        on_outcome: told of every run as it ends, from this thread.
        should_stop: asked between runs and while waiting; when it says yes, runs in progress are ended.

    Returns:
        What came of every run that was reused or tried.

    Raises:
        FedsimError: something that a run needs is not installed; none has begun.
        KeyboardInterrupt: it was asked to stop. Finished runs are kept.
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
    """Return the scenarios of runs that may need what the others do not: one for each data set, model and arms."""
    unlike: dict[str, str] = {}
    for run in runs:
        raw = json.loads(run.scenario)
        unlike.setdefault(json.dumps([raw[key] for key in ("data", "model", "arms")]), run.scenario)
    return list(unlike.values())


@dataclass
class _Desk:
    """Where workers fetch runs and hand in outcomes, until it closes."""

    folder: SweepFolder
    command: str
    todo: queue.SimpleQueue[Planned]
    ended: queue.SimpleQueue[Outcome | None]
    end: float | None
    is_closed: bool = field(default=False)

    def work(self, worker: Worker) -> None:
        """Have a worker make one run after the other, in a thread of its own."""
        try:
            while not self.is_closed and (self.end is None or time.monotonic() < self.end):
                try:
                    run = self.todo.get_nowait()
                except queue.Empty:
                    break
                self.ended.put(self._made(worker, run))
        finally:
            self.ended.put(None)

    def _made(self, worker: Worker, run: Planned) -> Outcome:
        begin = time.monotonic()
        failure = worker.make(order_of(run, self.folder.run_path(run.digest), self.command))
        if failure is not None and failure.cause == "disk":
            self.is_closed = True
        elif not self.is_closed:
            with contextlib.suppress(FedsimError):  # the next attempt fails in the same way, or succeeds
                failure = self.folder.note(run.digest, failure)
        return Outcome(run, "failed" if failure else "finished", time.monotonic() - begin, failure)
