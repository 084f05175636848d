"""The folder of a sweep: a plan, a run folder for each run, and the reason of each that failed.

```
sweep.json           title, hash and scenario of the sweep, and its runs
origin.json          what the runs were planned from, so that a finished sweep is known at once
runs/DIGEST/         a run folder, as `fedsim run` writes it
failures/DIGEST.json why the last attempt failed
logs/                what programs printed while they worked
```
Every file is written beside its place and renamed into it, so a kill leaves the old file or the new one.
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
from fedsim.core.sanitize import printable_json
from fedsim.core.types import Config
from fedsim.experiment.sweep import heads
from fedsim.experiment.sweep.origin import ORIGIN
from fedsim.experiment.sweep.plan import Planned
from fedsim.record.atomic_files import (
    explain,
    locked,
    make_inner_folder,
    refuse_link,
    remove_rests,
    remove_stale_lock,
    write_whole,
)
from fedsim.record.store import RECORD

PLAN = "sweep.json"


class PlannedRun(Config):
    """One line of the plan."""

    digest: str = Field(pattern=r"^[0-9a-f]{16}$")
    name: str
    values: dict[str, Any]


class SweepPlan(Config):
    """What `sweep.json` holds."""

    schema_version: Literal[1] = 1
    title: str
    digest: str
    scenario: dict[str, Any]
    runs: tuple[PlannedRun, ...]


class Failed(Config):
    """Why a run failed: the program said so (`error`), took too long, was killed, or the disk was full (`disk`)."""

    cause: Literal["error", "timeout", "killed", "disk"]
    why: str
    attempts: int = 1


class SweepFolder:
    """One sweep on disk."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched."""
        self.path = path

    def prepare(self, plan: SweepPlan) -> None:
        """Make the folder, or check that it holds this sweep; a policy that changed is written down.

        Raises:
            FedsimError: it holds something else, or cannot be written.
        """
        with explain(self.path):
            occupants = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        if PLAN in occupants:
            if (other := self.plan()).digest != plan.digest:
                raise FedsimError(
                    f"{self.path} holds another sweep, '{other.title}'. Choose another --out; runs that both share are "
                    "computed again there."
                )
            self._make_folders(plan)
            if other != plan:
                write_whole(self.path / PLAN, plan.model_dump_json(indent=1).encode())
            return
        strangers = [name for name in occupants if not name.startswith(".fedsim-")]
        if strangers:
            raise FedsimError(f"{self.path} holds '{strangers[0]}', which is no part of a sweep. Choose another --out.")
        self._make_folders(plan)
        write_whole(self.path / PLAN, plan.model_dump_json(indent=1).encode())

    def _make_folders(self, plan: SweepPlan) -> None:
        for name in ("runs", "failures", "logs"):
            make_inner_folder(self.path, name)
        for run in plan.runs:
            refuse_link(self.run_path(run.digest))

    def keep_origin(self, origin: str) -> None:
        """Note what the plan was made from."""
        noted = {"origin": origin, "runs": [run.digest for run in self.plan().runs]}
        write_whole(self.path / ORIGIN, json.dumps(noted).encode())

    def plan(self) -> SweepPlan:
        """Return the plan.

        Raises:
            FedsimError: there is none, or it cannot be read.
        """
        try:
            return SweepPlan.model_validate_json(printable_json((self.path / PLAN).read_bytes()))
        except OSError as error:
            raise FedsimError(f"{self.path} holds no {PLAN}: not the folder of a sweep.") from error
        except ValidationError as error:
            raise FedsimError(f"{self.path / PLAN} cannot be read: {error.errors()[0]['msg']}.") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from working in this folder at the same time. The lock ends with the process, however it ends.

        Raises:
            FedsimError: somebody works in it.
        """
        with locked(self.path, "another sweep"):
            for folder in (self.path, self.path / "failures"):
                remove_rests(folder)
            self._remove_stale_locks()
            yield
            self._remove_stale_locks()

    def _remove_stale_locks(self) -> None:
        """Remove locks of workers that were killed: a run that is finished is never locked again."""
        for folder in (self.path / "runs").glob("*"):
            remove_stale_lock(folder)

    def run_path(self, digest: str) -> Path:
        """Return the folder of a run."""
        return self.path / "runs" / digest

    def log(self, worker: int) -> Path:
        """Return the file for what a worker's programs print."""
        return self.path / "logs" / f"worker-{worker}.log"

    def is_finished(self, digest: str) -> bool:
        """Tell from both ends of its record whether a run was finished, by a fedsim whose schema this one reads."""
        return heads.is_finished(self.run_path(digest) / RECORD)

    def misfit(self, digest: str) -> str | None:
        """Return why there is a record that nobody can read, or None."""
        path = self.run_path(digest) / RECORD
        start = heads.head(path)
        if start is None:
            return f"{path} cannot be read: its beginning is no record's" if path.exists() else None
        if start[0] == SCHEMA_VERSION:
            is_cut = start[1] == "finished" and not heads.is_whole(path)
            return f"{path} cannot be read: it is cut off; the sweep makes this run again" if is_cut else None
        return f"{path} has schema version {start[0]}, expected {SCHEMA_VERSION}: the sweep makes this run again"

    def failure(self, digest: str) -> Failed | None:
        """Return why the last attempt at a run failed, or None when it did not fail."""
        try:
            return Failed.model_validate_json(printable_json(self._failure_path(digest).read_bytes()))
        except (OSError, ValidationError):
            return None

    def note(self, digest: str, failure: Failed | None) -> Failed | None:
        """Keep the reason of a failure, and return it with its number of attempts; or forget it when there is none."""
        if failure is None:
            self._failure_path(digest).unlink(missing_ok=True)
            return None
        before = self.failure(digest)
        again = failure.model_copy(update={"attempts": (before.attempts if before else 0) + 1})
        write_whole(self._failure_path(digest), again.model_dump_json(indent=1).encode())
        return again

    def _failure_path(self, digest: str) -> Path:
        return self.path / "failures" / f"{digest}.json"


def plan_of(title: str, digest: str, scenario: str, runs: Sequence[Planned]) -> SweepPlan:
    """Return what a sweep's folder says about it."""
    lines = tuple(PlannedRun(digest=run.digest, name=run.name, values=run.values) for run in runs)
    return SweepPlan(title=title, digest=digest, scenario=json.loads(scenario), runs=lines)
