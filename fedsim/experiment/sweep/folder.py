"""The folder of a sweep: a plan, a run folder per run, and the failures.

```
sweep.json           title, hash and scenario of the sweep, and its runs
origin.json          hash of the plan's inputs, to recognise a finished sweep quickly
runs/DIGEST/         a run folder, as `fedsim run` writes it
failures/DIGEST.json reason of the last failed attempt
logs/                output of the worker processes
```
All files are written atomically, so a kill leaves the old file or the new file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fedsim.core.errors import FedsimError
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.regular_files import read_regular
from fedsim.core.result_files import RECORD, SWEEP
from fedsim.core.sanitize import printable_json
from fedsim.core.types import Config
from fedsim.experiment.hashes import scenario_hash
from fedsim.experiment.sweep import heads
from fedsim.experiment.sweep.origin import ORIGIN
from fedsim.experiment.sweep.plan import Planned
from fedsim.record.atomic_files import make_inner_folder, refuse_link, remove_inside, remove_stale_lock
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario


class PlannedRun(Config):
    """A run of the plan."""

    digest: str = Field(pattern=r"^[0-9a-f]{16}$")
    name: str
    values: dict[str, Any]


class SweepPlan(Config):
    """Content of `sweep.json`."""

    schema_version: Literal[1] = 1
    title: str
    digest: str
    scenario: dict[str, Any]
    runs: tuple[PlannedRun, ...]


class Failed(Config):
    """Failure of a run: an exception (`error`), a timeout, a killed process, or a full disk (`disk`)."""

    cause: Literal["error", "timeout", "killed", "disk"]
    why: str
    attempts: int = 1


class SweepFolder:
    """A sweep on disk."""

    def __init__(self, path: Path) -> None:
        """Set the path, without access to the disk."""
        self.path = path
        self._folder = RunFolder(path, SWEEP)

    @contextmanager
    def lock_for_sweep(self, plan: SweepPlan) -> Iterator[None]:
        """Lock the folder for the block, and write the plan, or check that the folder contains this sweep.

        A changed policy is written to the plan.

        Raises:
            FedsimError: another process holds the lock, the folder contains something else, or it cannot be written.
        """
        with self._folder.lock():
            self._prepare(plan)
            self._remove_stale_locks()
            yield
            self._remove_stale_locks()

    def _prepare(self, plan: SweepPlan) -> None:
        if (self.path / SWEEP).exists():
            earlier = self.plan()
            if earlier.digest != plan.digest:
                raise FedsimError(
                    f"{self.path} holds another sweep, '{earlier.title}'. Choose another --out; runs that both share "
                    "are computed again there."
                )
            self._folder.remove_temporary_files()
        else:
            earlier = None
            self._folder.create(overwrite=False)
        for name in ("runs", "failures", "logs"):
            make_inner_folder(self.path, name)
        for run in plan.runs:
            refuse_link(self.run_path(run.digest))
        if earlier != plan:
            self._folder.write(SWEEP, plan.model_dump_json(indent=1).encode())

    def _remove_stale_locks(self) -> None:
        """Remove locks of killed workers: a finished run is never locked again."""
        for folder in (self.path / "runs").glob("*"):
            remove_stale_lock(folder)

    def keep_origin(self, origin: str) -> None:
        """Store the hash of the plan's inputs."""
        noted = {"origin": origin, "runs": [run.digest for run in self.plan().runs]}
        self._folder.write(ORIGIN, json.dumps(noted).encode())

    def plan(self) -> SweepPlan:
        """Return the plan.

        Raises:
            FedsimError: the plan is missing or unreadable.
        """
        try:
            return SweepPlan.model_validate_json(printable_json(read_regular(self.path / SWEEP)))
        except OSError as error:
            if (self.path / SWEEP).exists():
                raise FedsimError(f"{self.path / SWEEP} cannot be read: {error.strerror}.") from error
            raise FedsimError(f"{self.path} holds no {SWEEP}: not the folder of a sweep.") from error
        except ValidationError as error:
            raise FedsimError(f"{self.path / SWEEP} cannot be read: {error.errors()[0]['msg']}.") from error

    def run_path(self, digest: str) -> Path:
        """Return the folder of a run."""
        return self.path / "runs" / digest

    def log(self, worker: int) -> Path:
        """Add a worker's log file to the manifest, and return its path."""
        self._folder.reserve(f"logs/worker-{worker}.log")
        return self.path / "logs" / f"worker-{worker}.log"

    def is_finished(self, digest: str) -> bool:
        """Return whether a run has finished with the current schema version, from both ends of its record."""
        return heads.is_finished(self.run_path(digest) / RECORD)

    def misfit(self, digest: str) -> str | None:
        """Return why an existing record is unreadable, or None."""
        path = self.run_path(digest) / RECORD
        start = heads.head(path)
        if start is None:
            return f"{path} cannot be read: its beginning is no record's" if path.exists() else None
        if start[0] == SCHEMA_VERSION:
            is_cut = start[1] == "finished" and not heads.is_whole(path)
            return f"{path} cannot be read: it is cut off; the sweep makes this run again" if is_cut else None
        return f"{path} has schema version {start[0]}, expected {SCHEMA_VERSION}: the sweep makes this run again"

    def failure(self, digest: str) -> Failed | None:
        """Return the failure of the last attempt at a run, or None."""
        try:
            return Failed.model_validate_json(printable_json(read_regular(self._failure_path(digest))))
        except (OSError, ValidationError):
            return None

    def note(self, digest: str, failure: Failed | None) -> Failed | None:
        """Store a failure, and return it with its number of attempts; for None, remove the stored failure."""
        if failure is None:
            if self._failure_path(digest).exists():
                remove_inside(self.path, f"failures/{digest}.json")
            return None
        before = self.failure(digest)
        repeated = failure.model_copy(update={"attempts": (before.attempts if before else 0) + 1})
        self._folder.write(f"failures/{digest}.json", repeated.model_dump_json(indent=1).encode())
        return repeated

    def _failure_path(self, digest: str) -> Path:
        return self.path / "failures" / f"{digest}.json"


def plan_of(scenario: Scenario, runs: Sequence[Planned]) -> SweepPlan:
    """Return the content of `sweep.json`."""
    lines = tuple(PlannedRun(digest=run.digest, name=run.name, values=run.values) for run in runs)
    return SweepPlan(
        title=scenario.title, digest=scenario_hash(scenario), scenario=scenario.model_dump(mode="json"), runs=lines
    )
