"""`fedsim export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.commands._console import app, say
from fedsim.errors import FedsimError


@app.command(epilog="Example: fedsim export results/my_sweep --csv")
def export(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")],
    as_csv: Annotated[bool, typer.Option("--csv", help="write table.csv")] = False,
    as_parquet: Annotated[bool, typer.Option("--parquet", help="write table.parquet; an extra")] = False,
) -> None:
    """Write all results as one table, a row for each attacked example; the columns are explained beside it."""
    from fedsim.sweep.export import write_csv, write_parquet

    if not (as_csv or as_parquet):
        raise FedsimError("say in which form: add --csv, --parquet, or both.")
    for wanted, write in ((as_csv, write_csv), (as_parquet, write_parquet)):
        if wanted:
            say(f"Wrote {write(folder)}")
