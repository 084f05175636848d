"""One self-contained page about a run: what the attacks recovered, how sure that is, and how to run it again."""

from __future__ import annotations

from pathlib import Path

from fedsim.core.sanitize import csv_table
from fedsim.record.finding_rows import FINDING_COLUMNS, finding_rows
from fedsim.record.store import RunFolder, read_record
from fedsim.report import figures, image_grid, run
from fedsim.report.document import to_html
from fedsim.report.tables.scores import score_columns, scores
from fedsim.report.verdict import RunJudge

__all__ = ["build"]


def build(run_dir: Path) -> Path:
    """Write the report of a run beside its record.

    Reads `record.json` and, when it is there, `arrays.npz`. Writes `figures/` (each picture as PNG, its data as
    CSV), `scores.csv`, where more was asked than attacks on updates `findings.csv`, and last `report.html`, every file
    whole or not at all. Nothing in it refers to another file or to the network.

    Args:
        run_dir: folder of the run.

    Returns:
        The path of `report.html`.

    Raises:
        FedsimError: the record is missing or does not follow the schema.
    """
    record = read_record(run_dir)
    judge = RunJudge.of(record)
    arrays = RunFolder(run_dir).read_arrays()
    walls = image_grid.walls(record, arrays, judge)
    page = run.page_of(record, arrays, judge, walls)
    sheets = [figures.wall_sheet(pictures, number) for number, pictures in enumerate(walls, 1)]
    folder = RunFolder(run_dir)
    for picture in (*page.pictures, *sheets):
        folder.write(f"figures/{picture.name}.png", picture.png)
        folder.write(f"figures/{picture.name}.csv", csv_table(picture.columns, picture.rows))
    folder.write("scores.csv", csv_table(score_columns(judge), scores(record, judge)))
    if any(arm.findings for arm in record.arms):
        rows = [tuple(row.values()) for row in finding_rows(record)]
        folder.write("findings.csv", csv_table(tuple(FINDING_COLUMNS), rows))
    folder.write("report.html", to_html(page).encode())
    return run_dir / "report.html"
