"""A made run with a failed attack and a question."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.report.made_findings import UNREAD, of_attributes


@pytest.fixture
def run(tmp_path: Path, records: ModuleType) -> Path:
    lost = records.attack("idlg", [records.failed(0, "no label was found")])
    found = (of_attributes("trait", "parity", 0.9, 0.8), UNREAD)
    made = records.run(
        [
            records.arm("open_&_50%", [records.attack("dlg", records.recovered()), lost]),
            records.arm("shut", [records.attack("dlg", records.missed())], findings=found),
        ]
    )
    records.save(tmp_path, made)
    return tmp_path
