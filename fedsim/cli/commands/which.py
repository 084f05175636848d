"""`fedsim which`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._client_options import parse_knowledge, usable_memory
from fedsim.cli.commands._console import command, say, screen
from fedsim.core import targets


@command(epilog="Example: fedsim which my_pkg.train:make_client --batch 4 --knows labels,batch-size,dropout-rates")
def which(
    target: Annotated[
        str,
        typer.Argument(
            help="package.module:name or folder/file.py:name of a function that returns (model, loss, loader), or of "
            "an object listed in docs/audit.md"
        ),
    ],
    batch: Annotated[int, typer.Option(min=1, help="examples behind the update")] = 1,
    knows: Annotated[
        str | None,
        typer.Option(help="knowledge granted to the attacker, separated by commas; absent: as in an audit"),
    ] = None,
    memory: Annotated[float | None, typer.Option(min=0, help="GiB of address space for your code; 0: no limit")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the attacks that apply to your own model, in the order of `auto`, and why others do not; attack nothing."""
    granted = None if knows is None else parse_knowledge(knows)
    targets.find(target)

    from fedsim.applicability.targets import overview_of_target
    from fedsim.audit.record import KNOWS

    overview = overview_of_target(
        target, batch, KNOWS if granted is None else granted, usable_memory() if memory is None else memory
    )
    if as_json:
        say(json.dumps(overview, indent=1))
        return
    say(f"{overview['sentence']}\n")
    for row in overview["applicable"]:
        _show_attack(row)
    say("Not tried by `auto`:\n")
    _show_table(
        ("attack", "why", "applies with"),
        [
            (row["name"], row["refusal"].removeprefix("does not apply: "), ", or ".join(row["applies_with"]))
            for row in overview["refused"]
        ],
    )
    say(f"\nNever tried, as baselines or references: {', '.join(overview['never_tried'])}")


def _show_attack(row: dict[str, Any]) -> None:
    """Print an attack's cost, chance, returns and conditions, in lines that fit any width."""
    say(f"{row['name']}: about {_number(row['seconds'])} s, chance {_number(row['chance'])}")
    parts = Table.grid(padding=(0, 1))
    parts.add_column(no_wrap=True)
    parts.add_column()
    for heading, text in (("because", row["reason"]), ("returns", row["returns"]), ("relies on", row["relies_on"])):
        parts.add_row(f"  {heading}", Text(text))
    screen.print(parts)
    say("")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"


def _show_table(headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    screen.print(table)
