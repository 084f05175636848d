"""`fedsim expect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, say
from fedsim.core.result_files import check_run_or_sweep
from fedsim.core.source import find_source, read_source


@command(epilog="Example: fedsim expect results/00_quickstart")
def expect(
    folder: Annotated[Path, typer.Argument(help="the folder of a run or a sweep")],
    scenario: Annotated[
        Path | None, typer.Argument(help="the scenario file (TOML); absent: the scenario with the folder's name")
    ] = None,
) -> None:
    """Write the figures of a run or a sweep into expected/NAME.json beside its scenario; `--check` compares with it."""
    check_run_or_sweep(folder)
    source = find_source(scenario or Path(folder.resolve().name))
    read_source(source)

    from fedsim.experiment.expectation import expectation, write_expected
    from fedsim.experiment.sweep.expectation import figures, measurement

    expected = expectation(figures(folder), measurement(folder))
    file = write_expected(expected, source)
    say(f"{file}: {expected.count} expected figures.")
