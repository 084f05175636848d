"""`fedsim list`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import app, say, screen
from fedsim.core import registry
from fedsim.core.errors import ScenarioError, in_a_line
from fedsim.core.source import read_source

Group = Literal["attacks", "defenses", "components", "aggregators", "memberships", "models", "data", "scenarios"]
_KINDS: dict[str, registry.Kind] = {
    "attacks": "attack",
    "defenses": "defense",
    "components": "component",
    "aggregators": "aggregator",
    "memberships": "membership",
    "models": "model",
    "data": "dataset",
}


@app.command(name="list", epilog="Example: fedsim list attacks --json")
def list_(
    group: Annotated[Group | None, typer.Argument(help="what to list; everything when absent")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List attacks, defenses, components, aggregators, membership attacks, models, data sets and scenarios."""
    groups = [group] if group else [*_KINDS, "scenarios"]
    entries = [entry for name in groups for entry in _entries(name)]
    if as_json:
        say(json.dumps(entries, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "name", "paper", "summary"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        table.add_row(*(Text(entry[key]) for key in ("group", "name", "paper", "summary")))
    screen.print(table)


def _entries(group: str) -> list[dict[str, str]]:
    if group == "scenarios":
        return _scenarios()
    return [
        {"group": group, "name": m.name, "summary": m.summary, "paper": m.paper, "hook": m.hook or ""}
        for m in registry.methods(_KINDS[group]).values()
    ]


def _scenarios() -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for path in sorted(Path("scenarios").glob("*.toml")):
        found.append({"group": "scenarios", "name": str(path), "summary": _title(path), "paper": "", "hook": ""})
    return found


def _title(path: Path) -> str:
    try:
        return str(tomllib.loads(read_source(path).decode()).get("title", ""))
    except (ScenarioError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return in_a_line(error)
