"""`fedsim report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, say
from fedsim.core.result_files import SWEEP, check_run_or_sweep


@command(epilog="Example: fedsim report results/40_privacy_utility_sweep")
def report(folder: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")]) -> None:
    """Write the report of a sweep or run as a single offline page; for a sweep also a summary in Markdown."""
    check_run_or_sweep(folder)
    from fedsim.report import sweep
    from fedsim.report import writing as reports

    if (folder / SWEEP).exists():
        say(f"Report: {sweep.build(folder)}\nSummary: {folder / 'report.md'}")
    else:
        say(f"Report: {reports.build(folder)}")
