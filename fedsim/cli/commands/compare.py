"""`fedsim compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import command, say, screen

if TYPE_CHECKING:
    from fedsim.report.sweep.compare import Compared, Difference, FindingsCompared


@command(epilog="Example: fedsim compare results/before results/after")
def compare(
    a: Annotated[Path, typer.Argument(help="folder of a sweep or of a run")],
    b: Annotated[Path, typer.Argument(help="folder of another sweep or run")],
) -> None:
    """Compare two sweeps or runs, setting by setting, on the same seeds and victims."""
    from fedsim.report.sweep.compare import compare as compared

    found = compared(a, b)
    say(f"A: {found.titles[0]} ({a})\nB: {found.titles[1]} ({b})\nB minus A in points, 95% interval, p after Holm.")
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "attack success", "p", "better", "utility", "p", "better"):
        table.add_column(heading, overflow="fold")
    for row in found.rows:
        table.add_row(*map(Text, _cells(row)))
    screen.print(table)
    if found.findings:
        screen.print(_findings_table(found.findings))
    for side, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            say(f"Only {side} has: {'; '.join(names)}")


def _findings_table(rows: Sequence[FindingsCompared]) -> Table:
    """Return what questions found on both sides, a row a finding."""
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "finding", "figure", "A", "B", "p", "better"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        values = [row.metric.format(value) for value in row.values]
        p = "" if row.difference.p is None else f"{row.difference.p:.3f}"
        cells = (row.name, row.label, row.metric.title, *values, p, row.difference.better)
        table.add_row(*map(Text, cells))
    return table


def _cells(row: Compared) -> list[str]:
    return [row.name, *_told(row.success), *_told(row.utility)]


def _told(own: Difference) -> list[str]:
    if own.value is None or own.p is None:
        return ["", "", own.better]
    interval = "" if own.value.low is None else f" ({100 * own.value.low:+.1f} to {100 * (own.value.high or 0.0):+.1f})"
    return [f"{100 * own.value.value:+.1f}{interval}", f"{own.p:.3f}", own.better]
