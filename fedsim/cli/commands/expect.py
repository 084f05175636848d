"""`fedsim expect`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli.commands._console import command, say
from fedsim.core.result_files import check_run_or_sweep


@command(epilog="Example: fedsim expect results/00_quickstart >> scenarios/00_quickstart.toml")
def expect(folder: Annotated[Path, typer.Argument(help="the folder of a run or a sweep")]) -> None:
    """Print the figures of a run or a sweep as the table [expected] of its scenario, which `--check` reads."""
    check_run_or_sweep(folder)

    from fedsim.experiment.expectation import expectation
    from fedsim.experiment.sweep.expectation import figures, measurement

    table = expectation(figures(folder), measurement(folder))
    lines = [f"    {_inline(figure)}," for figure in table["figures"]]
    say("\n".join(["", "[expected]", f"measured = {_inline(table['measured'])}", "figures = [", *lines, "]"]))


def _inline(table: Mapping[str, Any]) -> str:
    """Return an inline table of TOML."""
    pairs = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())
    return f"{{ {', '.join(pairs)} }}"
