"""Running a scenario for a benchmark: in a temporary folder, progress on standard error."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console

from fedsim.cli import display
from fedsim.experiment import runner
from fedsim.record import ArmRecord
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario


def arms_of(scenario: Scenario) -> tuple[ArmRecord, ...]:
    """Run every arm of a scenario and return what was recorded."""
    with tempfile.TemporaryDirectory() as folder, display.open_display(Console(file=sys.stderr)) as watcher:
        run = RunFolder(Path(folder) / "run")
        run.create(overwrite=False)
        return runner.run(scenario, run, watcher, command="benchmark", earlier=None).arms
