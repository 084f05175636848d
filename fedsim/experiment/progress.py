"""A run in progress: its record, saved after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from fedsim.core import registry
from fedsim.experiment.training import Trainings
from fedsim.experiment.watching import Watcher
from fedsim.processes.methods import Start
from fedsim.questions.base import QuestionContext
from fedsim.record import ArmRecord, ArmUpdate, Failure, Finding, QuestionInfo, RunRecord
from fedsim.record.environment import now
from fedsim.record.store import RunFolder


@dataclass
class RunInProgress:
    """A run in progress. Its record's status is ``interrupted`` until `finish`, so a kill leaves a correct record."""

    folder: RunFolder
    record: RunRecord
    arrays: dict[str, np.ndarray]
    watcher: Watcher
    should_stop: Callable[[], bool]
    start: Start
    trainings: Trainings = field(default_factory=Trainings)
    written_arrays: set[str] = field(default_factory=set[str], init=False)

    def __post_init__(self) -> None:
        """Mark the loaded arrays as stored."""
        self.written_arrays.update(self.arrays)

    def check_cancelled(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested. Called between steps."""
        if self.should_stop():
            raise KeyboardInterrupt

    def ask(self, questions: Iterable[QuestionInfo]) -> None:
        """Add the questions to the record."""
        known = {question.name: question for question in (*self.record.questions, *questions)}
        self.record = self.record.model_copy(update={"questions": tuple(known.values())})

    def begin(self, arm: ArmRecord) -> None:
        """Write the record with a trained arm without findings."""
        self._write_arms((*self.record.arms, arm))

    def work(self, place: str) -> QuestionContext:
        """Return the run context for an arm's questions; `place` is the prefix of its arrays."""
        watcher = self.watcher
        return QuestionContext(
            self.start,
            self.should_stop,
            watcher.progress,
            on_search=watcher.attack,
            on_victim=watcher.report_victim,
            place=place,
            arrays=self.arrays,
        )

    def add(self, finding: Finding, work: QuestionContext, seconds: float) -> None:
        """Append a finding to the arm in progress, with its table and images."""
        arm = self.record.arms[-1]
        is_new = finding.items and finding.items not in arm.items
        part = ArmUpdate(
            arm=len(self.record.arms) - 1,
            place=len(arm.findings),
            findings=(finding,),
            items={finding.items: work.items[finding.items]} if is_new else {},
            seconds=seconds,
            metrics=registry.find_metrics(list(finding.metric_names)),
        )
        new = {name: array for name, array in self.arrays.items() if name not in self.written_arrays}
        self.folder.append(part, new)
        self.written_arrays.update(new)
        self.record = self.record.with_part(part)

    def end(self, seconds: float) -> None:
        """Mark the arm in progress as complete, and write the record."""
        *before, arm = self.record.arms
        whole = arm.model_copy(update={"seconds": seconds, "complete": True})
        self.folder.write_arrays(self.arrays)
        self._write_arms((*before, whole))

    def _write_arms(self, arms: tuple[ArmRecord, ...]) -> None:
        """Write the record with these arms, and the declarations of its metrics and of the scoring metric."""
        scoring = self.record.plan["scoring"]["metric"]
        self.record = self.record.model_copy(update={"arms": arms}).with_declarations(scoring)
        self.folder.write_record(self.record)

    def skip(self, arm: str, error: Exception) -> None:
        """Record the reason of a diverged arm, while the run continues; its partial results are dropped."""
        failure = Failure(subject=f"arm {arm}", reason=str(error), cause="not finite")
        complete = tuple(arm for arm in self.record.arms if arm.complete)
        self.record = self.record.model_copy(update={"arms": complete, "failures": (*self.record.failures, failure)})
        self.folder.write_record(self.record)

    def fail(self, error: Exception) -> None:
        """Record the reason of a failed run, if an earlier arm has results."""
        if not self.record.arms:
            return
        failure = Failure(subject="run", reason=str(error))
        self.record = self.record.model_copy(update={"status": "failed", "failures": (failure,), "ended": now()})
        self.folder.write_arrays(self.arrays)
        self.folder.write_record(self.record)

    def finish(self) -> RunRecord:
        """Set the status to finished, write the record, and return it."""
        self.record = self.record.model_copy(update={"status": "finished", "ended": now()})
        self.folder.write_record(self.record)
        return self.record
