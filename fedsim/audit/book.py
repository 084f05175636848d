"""An audit in progress: findings, clock and listener. It is written after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.audit.clock import AuditClock
from fedsim.audit.inspecting import Arrays
from fedsim.audit.record import ARRAYS, RECORD, AuditPlan, AuditRecord
from fedsim.record import Columns, Finding
from fedsim.record.store import npz, write_whole


@dataclass
class AuditJournal:
    """Keeps the record and pictures of one audit in a folder."""

    folder: Path
    clock: AuditClock
    record: AuditRecord
    tell: Callable[[str], None]
    arrays: Arrays = field(default_factory=dict)

    @property
    def plan(self) -> AuditPlan:
        """The plan of the audit."""
        return self.record.plan

    def add(self, findings: Sequence[Finding], items: Mapping[str, Columns] | None = None) -> None:
        """Add findings, and the tables that they refer to, and write the record."""
        self.keep(findings=(*self.record.findings, *findings), items={**self.record.items, **(items or {})})

    def keep(self, **fields: Any) -> None:
        """Change fields of the record and write it."""
        self.record = self.record.model_copy(update={**fields, "seconds": self.clock.used})
        write_whole(self.folder / ARRAYS, npz(self.arrays))
        write_whole(self.folder / RECORD, self.record.model_dump_json(indent=1).encode())
