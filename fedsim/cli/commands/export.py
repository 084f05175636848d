"""`fedsim export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, say
from fedsim.core.errors import FedsimError
from fedsim.core.result_files import check_run_or_sweep


@command(epilog="Example: fedsim export results/my_sweep --csv")
def export(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")],
    as_csv: Annotated[bool, typer.Option("--csv", help="write table.csv")] = False,
    as_parquet: Annotated[bool, typer.Option("--parquet", help="write table.parquet (needs an extra)")] = False,
    as_duckdb: Annotated[bool, typer.Option("--duckdb", help="write results.duckdb (needs an extra)")] = False,
) -> None:
    """Write all results as a single table, a row per attacked example, and a file that explains the columns."""
    if not (as_csv or as_parquet or as_duckdb):
        raise FedsimError("choose a format: add --csv, --parquet or --duckdb, or several.")
    check_run_or_sweep(folder)

    from fedsim.experiment.sweep.export import write_csv, write_duckdb, write_parquet

    for wanted, write in ((as_csv, write_csv), (as_parquet, write_parquet), (as_duckdb, write_duckdb)):
        if wanted:
            say(f"Wrote {write(folder)}")
