"""Tables of a report page for papers: chosen once, written as LaTeX, Markdown or JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fedsim.record.store import RunFolder
from fedsim.report.paper.bibliography import methods_in, to_bibtex
from fedsim.report.paper.formats import PaperTable, as_markdown, to_json, to_latex
from fedsim.report.paper.page_tables import read_page_tables
from fedsim.report.paper.selection import Selection, mark_best, select

__all__ = ["PaperTable", "Selection", "Suffix", "methods_in", "read_paper_table", "to_bibtex", "write"]

Suffix = Literal["tex", "md", "json"]

_FORMATS: dict[Suffix, Callable[[PaperTable], str]] = {"tex": to_latex, "md": as_markdown, "json": to_json}


def read_paper_table(folder: Path, name: str, selection: Selection, *, marks_best: bool = False) -> PaperTable:
    """Return selected rows and columns of a table of a run's or sweep's page.

    Args:
        folder: folder of the run or sweep.
        name: name or title of the table; empty for the page's main table.
        selection: names of rows and columns.
        marks_best: whether the best value of every metric is marked.

    Raises:
        FedsimError: the folder holds neither run nor sweep, or a name is unknown.
    """
    tables = read_page_tables(folder)
    known, table = tables.find(name)
    chosen = select(table, selection)
    return PaperTable(known, mark_best(chosen) if marks_best else chosen, tables.origin)


def write(folder: Path, paper: PaperTable, suffix: Suffix) -> Path:
    """Write the table as ``table-NAME.SUFFIX`` into the folder of its run or sweep, and return the path."""
    path = folder / f"table-{paper.slug}.{suffix}"
    RunFolder(folder).write(path.name, _FORMATS[suffix](paper).encode())
    return path
