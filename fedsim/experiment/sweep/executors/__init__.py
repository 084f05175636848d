"""Executors of a sweep's runs: local processes, or a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedsim.experiment.sweep.folder import Failed
from fedsim.experiment.sweep.plan import Planned
from fedsim.scenario import Sweep


@dataclass(frozen=True)
class RunOrder:
    """A run to execute: its resolved scenario as JSON, its folder, and the command line for its record."""

    scenario: str
    path: str
    command: str


class Worker(Protocol):
    """Executes runs in sequence. A run that crashes, hangs or exceeds its memory has failed; the worker continues."""

    def make(self, order: RunOrder) -> Failed | None:
        """Execute a run, and return its failure, or None."""
        ...

    def stop(self) -> None:
        """Abort the current run, from another thread."""


class Executor(Protocol):
    """Factory of workers."""

    def worker(self, number: int, settings: Sweep, log: Path) -> Worker:
        """Return a worker.

        Args:
            number: index of the worker, from 0.
            settings: limits of a single run.
            log: file for the output of programs.
        """
        ...


def order_of(run: Planned, folder: Path, command: str) -> RunOrder:
    """Return the order for a planned run."""
    return RunOrder(run.scenario, str(folder.resolve()), command)


def failure_of(answer: dict[str, Any]) -> Failed | None:
    """Return the failure in a worker's answer, or None."""
    return None if answer["why"] is None else Failed(cause=answer["cause"], why=answer["why"])
