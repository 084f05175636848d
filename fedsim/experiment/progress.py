"""A run in progress: what was found so far, kept after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from fedsim.core import registry
from fedsim.experiment.training import Trainings
from fedsim.experiment.watching import Watcher
from fedsim.record import ArmRecord, Failure, QuestionAsked, RunRecord
from fedsim.record.store import RunFolder
from fedsim.threat.attacking import Start


@dataclass
class RunInProgress:
    """A run in progress. Its record says interrupted until `finish`, so that a kill leaves the truth behind."""

    folder: RunFolder
    record: RunRecord
    arrays: dict[str, np.ndarray]
    watcher: Watcher
    should_stop: Callable[[], bool]
    start: Start
    trainings: Trainings = field(default_factory=Trainings)

    def look_up(self) -> None:
        """Stop here, between two steps, if somebody asked for it."""
        if self.should_stop():
            raise KeyboardInterrupt

    def ask(self, questions: Iterable[QuestionAsked]) -> None:
        """Let the record say what is asked."""
        known = {own.name: own for own in (*self.record.questions, *questions)}
        self.record = self.record.model_copy(update={"questions": tuple(known.values())})

    def keep(self, arm: ArmRecord, number: int) -> None:
        """Write what is known of an arm."""
        kept = (*self.record.arms[:number], arm)
        self.record = declaring(self.record.model_copy(update={"arms": kept}))
        self.folder.write_arrays(self.arrays)
        self.folder.write_record(self.record)

    def fail(self, error: Exception) -> None:
        """Say in the record of an earlier arm why there are no further ones."""
        if not self.record.arms:
            return
        failure = Failure(who="run", why=str(error))
        self.record = self.record.model_copy(update={"status": "failed", "failures": (failure,), "ended": now()})
        self.folder.write_record(self.record)

    def finish(self) -> RunRecord:
        """Write the whole record, and return it."""
        self.record = self.record.model_copy(update={"status": "finished", "ended": now()})
        self.folder.write_record(self.record)
        return self.record


def declaring(record: RunRecord) -> RunRecord:
    """Return a record with what its metrics declare, and that which decides."""
    scoring = record.scenario["scoring"]["metric"]
    return record.model_copy(update={"metrics": registry.declared([*record.figures, scoring])})


def now() -> str:
    """Return the time as records state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
