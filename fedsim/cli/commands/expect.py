"""`fedsim expect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, say
from fedsim.core.result_files import check_run_or_sweep


@command(epilog="Example: fedsim expect results/00_quickstart >> scenarios/00_quickstart.toml")
def expect(folder: Annotated[Path, typer.Argument(help="the folder of a run or a sweep")]) -> None:
    """Print the figures of a run or a sweep as the table [expected] of its scenario, which `--check` reads."""
    check_run_or_sweep(folder)

    from fedsim.experiment.expectation import expectation
    from fedsim.experiment.sweep.expectation import figures

    lines = [
        "    { "
        + ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in figure.items())
        + " },"
        for figure in expectation(figures(folder))["figures"]
    ]
    say("\n".join(["", "[expected]", "figures = [", *lines, "]"]))
