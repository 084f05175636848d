"""Markdown of pages: tables, and links between files of the repository."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells that hold a bar must be escaped."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def escape_cells(cells: Sequence[str]) -> list[str]:
    """Return cells in which a bar does not end the cell."""
    return [cell.replace("|", "\\|") for cell in cells]


def link_path(target: Path | str, page: Path | str) -> str:
    """Return the path of a file from the folder of a page, both below the same folder."""
    return Path(os.path.relpath(target, Path(page).parent)).as_posix()
