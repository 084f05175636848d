"""Journal of a running audit: its record, clock and progress callback. The record is written after every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.audit.record import ARRAYS, AuditArm, AuditPlan, AuditRecord
from fedsim.core.result_files import AUDIT
from fedsim.core.time_budget import TimeBudget
from fedsim.questions.base import QuestionContext
from fedsim.record.store import RunFolder, npz


@dataclass
class AuditSession:
    """Record and pictures of an audit in a folder."""

    folder: Path
    clock: TimeBudget
    record: AuditRecord
    tell: Callable[[str], None]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def plan(self) -> AuditPlan:
        """The plan of the audit."""
        return self.record.plan

    def work(self, arm: AuditArm) -> QuestionContext:
        """Return the `Work` that stores pictures and tables of an arm."""
        return QuestionContext(place=arm.name, arrays=self.arrays)

    def store_arm(self, arm: AuditArm) -> AuditArm:
        """Store an arm in the record and write the record."""
        self.note(arm)
        self.keep()
        return arm

    def note(self, arm: AuditArm) -> AuditArm:
        """Store an arm in the record, replacing the arm of the same name, without writing; return the arm."""
        arms = {arm.name: arm for arm in self.record.arms} | {arm.name: arm}
        self.record = self.record.model_copy(update={"arms": tuple(arms.values())})
        return arm

    def keep(self, **fields: Any) -> None:
        """Change fields of the record, and write it."""
        self.record = self.record.model_copy(update={**fields, "seconds": self.clock.used}).with_declarations()
        folder = RunFolder(self.folder, AUDIT)
        folder.write(ARRAYS, npz(self.arrays))
        folder.write_record(self.record)
