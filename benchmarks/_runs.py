"""Running a scenario for a benchmark: in a temporary folder, progress on standard error."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console

from fedsim import display, experiment
from fedsim.record import ArmRecord
from fedsim.scenario import Scenario
from fedsim.store import RunFolder


def arms_of(scenario: Scenario) -> tuple[ArmRecord, ...]:
    """Run every arm of a scenario and return what was recorded."""
    with tempfile.TemporaryDirectory() as folder, display.watching(Console(file=sys.stderr)) as watcher:
        run = RunFolder(Path(folder) / "run")
        run.create(overwrite=False)
        return experiment.run(scenario, run, watcher, command="benchmark", earlier=None).arms
