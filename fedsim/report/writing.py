"""Writer of a run's report: a single self-contained page, with figures and CSV files."""

from __future__ import annotations

from pathlib import Path

from fedsim.core.sanitize import csv_table
from fedsim.record.finding_rows import FINDING_COLUMNS, finding_rows
from fedsim.record.store import RunFolder, read_record
from fedsim.report import figures, image_grid, run
from fedsim.report.document.html import to_html
from fedsim.report.tables.scores import score_columns, scores
from fedsim.report.verdict import RunJudge

__all__ = ["build"]


def build(run_dir: Path) -> Path:
    """Write the report of a run into its folder.

    Reads `record.json` and, if it exists, `arrays.npz`. Writes `figures/` (each picture as PNG, its data as CSV),
    `scores.csv`, `findings.csv` if the record has findings, and finally `report.html`; every write is atomic. The page
    refers to no other file and to no network address.

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
