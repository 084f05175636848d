"""`fedsim export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import command, say
from fedsim.core.errors import FedsimError
from fedsim.core.result_files import check_run_or_sweep


@command(
    epilog="Example: fedsim export results/my_sweep --csv; "
    "fedsim export results/my_run --latex --attack dlg --metric psnr --bold best --bibtex papers.bib"
)
def export(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")],
    as_csv: Annotated[bool, typer.Option("--csv", help="write all results to table.csv")] = False,
    as_parquet: Annotated[bool, typer.Option("--parquet", help="write table.parquet (needs an extra)")] = False,
    as_duckdb: Annotated[bool, typer.Option("--duckdb", help="write results.duckdb (needs an extra)")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="write a table of the page to table-NAME.tex")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="write the same table to table-NAME.md")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="write the same table to table-NAME.json")] = False,
    bibtex: Annotated[
        str, typer.Option(metavar="FILE", help="write the BibTeX of every method in the table; '-' prints it")
    ] = "",
    table: Annotated[
        str, typer.Option(help="name or title of the page's table; default: attacks of a run, settings of a sweep")
    ] = "",
    arm: Annotated[list[str] | None, typer.Option(help="arm or setting of the table, repeatable; default: all")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="attack of the table, repeatable; default: all")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="heading, or metric by name, repeatable; default: the page's main columns")
    ] = None,
    bold: Annotated[
        str, typer.Option(help="'best' marks the best value of a metric, in the direction that it declares")
    ] = "",
) -> None:
    """Write all results as a single table, or a table of the page for a paper.

    --csv, --parquet and --duckdb write a row per attacked example, and a file that explains the columns. --latex,
    --markdown and --json write a table of the page, with n, intervals, units and the scenario hash. --bibtex cites its
    methods.
    """
    for_paper = as_latex or as_markdown or as_json or bool(bibtex)
    if not (as_csv or as_parquet or as_duckdb or for_paper):
        raise FedsimError(
            "choose a format: add --csv, --parquet or --duckdb for all results, --latex, --markdown, --json or "
            "--bibtex for a table of the page, or several."
        )
    if not for_paper and (table or arm or attack or metric or bold):
        raise FedsimError(
            "--table, --arm, --attack, --metric and --bold choose from a table of the page. Add --latex, --markdown, "
            "--json or --bibtex."
        )
    if bold not in ("", "best"):
        raise FedsimError(f"--bold is '{bold}', expected 'best'.")
    check_run_or_sweep(folder)

    from fedsim.experiment.sweep.export import write_csv, write_duckdb, write_parquet

    for wanted, write in ((as_csv, write_csv), (as_parquet, write_parquet), (as_duckdb, write_duckdb)):
        if wanted:
            say(f"Wrote {write(folder)}")
    if not for_paper:
        return
    from fedsim.report import paper

    selection = paper.Selection(tuple(arm or ()), tuple(attack or ()), tuple(metric or ()))
    chosen = paper.read_paper_table(folder, table, selection, marks_best=bool(bold))
    suffixes: dict[paper.Suffix, bool] = {"tex": as_latex, "md": as_markdown, "json": as_json}
    for suffix, wanted in suffixes.items():
        if wanted:
            say(f"Wrote {paper.write(folder, chosen, suffix)}")
    if bibtex:
        _give_bibtex(paper.to_bibtex(paper.methods_in(folder, chosen.table)), bibtex)


def _give_bibtex(text: str, place: str) -> None:
    """Print BibTeX if the place is ``-``, else write it to the file at that path."""
    if place == "-":
        say(text.rstrip())
        return
    from fedsim.record.atomic_files import io_advice

    path = Path(place)
    with io_advice(path):
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(text.splitlines()[0]):
            raise FedsimError(f"{path} exists and was not written by --bibtex. Name another file.")
        path.write_text(text, encoding="utf-8")
    say(f"Wrote {path}")
