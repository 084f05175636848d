"""Rendering of a selected table as LaTeX, Markdown or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedsim import __version__
from fedsim.report.document import Document, RowGroup, Table, TableRow, note
from fedsim.report.document.latex import table_to_latex
from fedsim.report.document.markdown import to_markdown
from fedsim.report.paper.page_tables import Origin, kebab


@dataclass(frozen=True)
class PaperTable:
    """A table for a paper, with its name on the page and its origin."""

    name: str
    table: Table
    origin: Origin

    @property
    def slug(self) -> str:
        """The name in lower case, with hyphens for other characters than letters and digits."""
        return kebab(self.name)

    @property
    def note(self) -> str:
        """The sentence on intervals, sample sizes and marked values."""
        marked = any(cell.is_best for row in self.table.rows for cell in row.cells)
        best = " Bold: best value of the column, in the direction that its metric declares." if marked else ""
        return f"Each value is followed by its {100 * self.origin.confidence:g}% interval.{best}"

    @property
    def source(self) -> str:
        """The title and hash of the scenario, and what an unfinished run or sweep lacks."""
        source = f"{self.origin.title}, scenario {self.origin.digest}, fedsim {__version__}"
        return f"{source}. {self.origin.missing}" if self.origin.missing else source


def to_latex(paper: PaperTable) -> str:
    """Return the table as a LaTeX float with booktabs rules; comments state the scenario hash."""
    comments = (paper.source, r"needs \usepackage{booktabs}")
    return table_to_latex(paper.table, f"{_sentence(paper.table.title)} {paper.note}", f"tab:{paper.slug}", comments)


def as_markdown(paper: PaperTable) -> str:
    """Return the table as a Markdown section with its origin."""
    blocks = (paper.table, note(paper.note), note(paper.source))
    return to_markdown(Document(paper.table.title, opening=blocks))


def to_json(paper: PaperTable) -> str:
    """Return the table as JSON; measured cells have metric, value, interval, n, unit and direction, unscaled."""
    table, origin = paper.table, paper.origin
    whole = {
        "table": paper.name,
        "title": table.title,
        "scenario_title": origin.title,
        "scenario_digest": origin.digest,
        "confidence": origin.confidence,
        "missing": origin.missing,
        "fedsim": __version__,
        "rows": [_row(table, group, row) for group in table.groups for row in group.rows],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row(table: Table, group: RowGroup, row: TableRow) -> dict[str, Any]:
    headed = zip(table.headings, row.cells, strict=False)  # a row with a reason has only its first cells
    cells = [
        {
            "column": heading.text,
            "text": cell.text,
            **({"interval": cell.interval} if cell.interval else {}),
            **({"notes": [*cell.tags, *cell.notes]} if cell.tags or cell.notes else {}),
            **({"best": True} if cell.is_best else {}),
            **({"measurement": _finite(asdict(cell.measurement))} if cell.measurement else {}),
        }
        for heading, cell in headed
    ]
    named = {table.group_heading: group.title} if table.group_heading else {}
    return {**named, "cells": cells, **({"failure": row.reason} if row.reason else {})}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with infinite numbers and NaN as text, which JSON has no numbers for."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _sentence(title: str) -> str:
    return title if title.endswith(("?", ".", "!")) else f"{title}."
