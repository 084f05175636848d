"""One row of a benchmark, and how rows are printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """A measured figure beside the figure asked for.

    `minimum`, `median` and `maximum` are over n units; `must` is the figure asked for, as text, and `holds` says
    whether it was reached.
    """

    name: str
    setting: str
    value: float
    unit: str
    minimum: float
    median: float
    maximum: float
    n: int
    must: str
    holds: bool


def main(measure: Callable[[bool], Sequence[Row]], description: str) -> None:
    """Run a benchmark's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--full", action="store_true", help="the long version")
    chosen = parser.parse_args()
    rows = measure(chosen.full)
    print(as_json(rows) if chosen.json else as_table(rows))


def as_json(rows: Sequence[Row]) -> str:
    """Return a JSON list with the keys that every benchmark shares."""
    short = {"minimum": "min", "maximum": "max"}
    return json.dumps([{short.get(key, key): value for key, value in row._asdict().items()} for row in rows], indent=1)


def as_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    lines = [
        "| what | setting | value | min | median | max | n | asked for | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = " | ".join(f"{x:.4g}" for x in (row.minimum, row.median, row.maximum))
        cells = (row.name, row.setting, f"{row.value:.4g} {row.unit}", figures, row.n, row.must)
        lines.append(f"| {' | '.join(map(str, cells))} | {'yes' if row.holds else 'no'} |")
    return "\n".join(lines)
