"""`fedsim doctor`."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import command, screen


@command(epilog="Example: fedsim doctor")
def doctor() -> None:
    """Show what is installed, which data are present, and how to get the rest."""
    from fedsim.cli.doctor import examine

    table = Table(box=None, pad_edge=False)
    for heading in ("", "name", "found", "how to get it"):
        table.add_column(heading, overflow="fold")
    for finding in examine():
        mark = "ok" if finding.present else "missing"
        table.add_row(mark, *(Text(t) for t in (f"{finding.group} {finding.name}", finding.detail, finding.advice)))
    screen.print(table)
