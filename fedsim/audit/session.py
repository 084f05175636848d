"""An audit in progress: its record, clock and listener. It is written after every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.audit.clock import AuditClock
from fedsim.audit.record import ARRAYS, RECORD, AuditArm, AuditPlan, AuditRecord, folder_of
from fedsim.questions.base import Work
from fedsim.record.store import npz


@dataclass
class AuditJournal:
    """Keeps the record and pictures of one audit in a folder."""

    folder: Path
    clock: AuditClock
    record: AuditRecord
    tell: Callable[[str], None]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def plan(self) -> AuditPlan:
        """The plan of the audit."""
        return self.record.plan

    def work(self, arm: AuditArm) -> Work:
        """Return what keeps pictures and tables of an arm."""
        return Work(place=arm.name, arrays=self.arrays)

    def put(self, arm: AuditArm) -> AuditArm:
        """Do as `note` does, and write the record."""
        self.note(arm)
        self.keep()
        return arm

    def note(self, arm: AuditArm) -> AuditArm:
        """Put an arm into the record, in the place of the one of its name, write nothing, and return it."""
        arms = {one.name: one for one in self.record.arms} | {arm.name: arm}
        self.record = self.record.model_copy(update={"arms": tuple(arms.values())})
        return arm

    def keep(self, **fields: Any) -> None:
        """Change fields of the record, and write it."""
        self.record = self.record.model_copy(update={**fields, "seconds": self.clock.used})
        folder = folder_of(self.folder)
        folder.write(ARRAYS, npz(self.arrays))
        folder.write(RECORD, self.record.model_dump_json(indent=1).encode())
