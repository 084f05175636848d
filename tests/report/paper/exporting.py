"""A table of a folder, written and read."""

from __future__ import annotations

from pathlib import Path

from fedsim.report.paper import Selection, Suffix, read_paper_table, write

ALL = Selection()


def text(folder: Path, suffix: Suffix, name: str = "", selection: Selection = ALL, *, best: bool = False) -> str:
    return write(folder, read_paper_table(folder, name, selection, marks_best=best), suffix).read_text()
