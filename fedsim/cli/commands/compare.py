"""`fedsim compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, screen
from fedsim.core.errors import FedsimError
from fedsim.core.result_files import check_run_or_sweep


@command(epilog="Example: fedsim compare results/before results/after")
def compare(
    a: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")],
    b: Annotated[Path, typer.Argument(help="folder of another sweep or run")],
) -> None:
    """Compare two sweeps or runs, setting by setting, on the same seeds and victims."""
    if a.resolve() == b.resolve():
        raise FedsimError(f"{a} and {b} are the same folder. Name two.")
    for folder in (a, b):
        check_run_or_sweep(folder)

    from fedsim.report.document.terminal import to_terminal
    from fedsim.report.sweep.compare import compare as compare_folders
    from fedsim.report.sweep.compare import comparison_blocks

    to_terminal(comparison_blocks(compare_folders(a, b), a, b), screen)
