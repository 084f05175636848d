"""Where the runs of a sweep are made: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedsim.experiment.sweep.folder import Failed
from fedsim.experiment.sweep.plan import Planned
from fedsim.scenario import Sweep


@dataclass(frozen=True)
class RunOrder:
    """One run to make: its resolved scenario as JSON, its folder, and the command line to keep in its record."""

    scenario: str
    path: str
    command: str


class Worker(Protocol):
    """Makes one run after the other. One that crashes, hangs or outgrows its memory has failed; the worker goes on."""

    def make(self, order: RunOrder) -> Failed | None:
        """Make a run, and return why it failed, or None."""
        ...

    def stop(self) -> None:
        """End whatever it is doing, from another thread."""


class Executor(Protocol):
    """Gives out workers."""

    def worker(self, number: int, settings: Sweep, log: Path) -> Worker:
        """Return a worker.

        Args:
            number: from 0.
            settings: limits of a single run.
            log: file for what programs print, where the executor keeps it.
        """
        ...


def order_of(run: Planned, folder: Path, command: str) -> RunOrder:
    """Return the order for one run of a plan."""
    return RunOrder(run.scenario, str(folder.resolve()), command)


def failure_of(answer: dict[str, Any]) -> Failed | None:
    """Return what a worker's answer says of its run."""
    return None if answer["why"] is None else Failed(cause=answer["cause"], why=answer["why"])
