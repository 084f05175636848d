"""Small sweeps, made in the process of the test, and data sets of users that go wrong."""

import errno
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsim.core.registry import for_scenarios
from fedsim.experiment import sweep as sweeps
from fedsim.experiment.sweep.executors import RunOrder, failure_of
from fedsim.experiment.sweep.executors.worker import answer
from fedsim.experiment.sweep.folder import Failed, SweepFolder, plan_of
from fedsim.experiment.sweep.run import Outcome
from fedsim.scenario import Scenario, Sweep, parse

HERE = "tests.experiment.sweep.sweeping"  # a sweep finds functions of this file by its name
SMALL: dict[str, Any] = {
    "title": "small <b>sweep</b>",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "federation": {"clients": 4},
    "threat": {"victims": 2},
    "attacks": [{"name": "closed-form-linear"}],
}
GRID = {
    "model.dropout": [0.0, 0.5],
    "defense": {"none": {"defenses": []}, "noise": {"defenses": [{"name": "gradient-noise", "scale": 0.01}]}},
}


class Here:
    """An executor and its worker: it makes runs in this process, one at a time, and starts no other."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()  # they share the random state of the process

    def worker(self, number: int, settings: Sweep, log: Path) -> "Here":
        return self

    def make(self, order: RunOrder) -> Failed | None:
        with self._one_at_a_time:
            return failure_of(answer(asdict(order)))

    def stop(self) -> None:
        """Nothing: every run has ended when a test asks."""


def scenario(**sweep: Any) -> Scenario:
    return parse({**SMALL, "sweep": sweep}, "test")


def made(path: Path, wanted: Scenario, jobs: int = 1, **options: Any) -> list[Outcome]:
    runs = sweeps.plan_runs(wanted, "test")
    folder = SweepFolder(path)
    with folder.lock_for_sweep(plan_of(wanted, runs)):
        options = {"executor": Here(), "command": "test", **options}
        return sweeps.sweep(folder, runs, wanted.sweep or Sweep(), jobs=jobs, **options)


@for_scenarios
def moody() -> Any:
    """A user's data set that raises."""
    raise ValueError("not in the mood")


def noisy(shape: Any = None) -> Any:
    """A user's data set that prints, hangs, dies or eats, as the environment says."""
    print("{not json")
    mood = os.environ.get("MOOD", "")
    if mood == "hang":
        time.sleep(600)
    if mood == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "eat":
        _ = bytearray(64 << 30)
    from fedsim.core import registry

    digits = registry.get("dataset", "digits")
    return digits.make(digits.config())


def full_disk() -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def command(path: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "fedsim.cli", "sweep", str(path), "--out", str(out), *options]
