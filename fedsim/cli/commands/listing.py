"""`fedsim list`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import command, say, screen
from fedsim.core import registry
from fedsim.core.errors import ScenarioError, in_a_line
from fedsim.core.source import read_source

Group = Literal[
    "attacks", "defenses", "components", "aggregators", "memberships", "metrics", "tasks", "models", "data", "scenarios"
]
_KINDS: dict[str, registry.Kind] = {
    "attacks": "attack",
    "defenses": "defense",
    "components": "component",
    "aggregators": "aggregator",
    "memberships": "membership",
    "metrics": "metric",
    "tasks": "task",
    "models": "model",
    "data": "dataset",
}


@command(name="list", epilog="Example: fedsim list attacks --json")
def list_(
    group: Annotated[Group | None, typer.Argument(help="what to list; absent: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List attacks, defenses, components, aggregators, membership attacks, metrics, tasks, models, data, scenarios."""
    groups = [group] if group else [*_KINDS, "scenarios"]
    entries = [entry for name in groups for entry in _entries(name)]
    if as_json:
        say(json.dumps(entries, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "name", "paper", "summary"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        name = " ".join((str(entry["name"]), *(f"({alias})" for alias in entry["aliases"])))
        table.add_row(*map(Text, (entry["group"], name, entry["paper"], entry["summary"])))
    screen.print(table)


class _Entry(TypedDict):
    """One line of the list; `related` is a paper other than the method's own."""

    group: str
    name: str
    summary: str
    paper: str
    related: str
    hook: str
    aliases: list[str]


def _entries(group: str) -> list[_Entry]:
    if group == "scenarios":
        return _scenarios()
    return [
        _Entry(
            group=group,
            name=m.name,
            summary=m.summary,
            paper=m.paper,
            related=m.related,
            hook=m.hook or "",
            aliases=list(m.aliases),
        )
        for m in registry.methods(_KINDS[group]).values()
    ]


def _scenarios() -> list[_Entry]:
    found: list[_Entry] = []
    for path in sorted(Path("scenarios").glob("*.toml")):
        found.append(
            _Entry(group="scenarios", name=str(path), summary=_title(path), paper="", related="", hook="", aliases=[])
        )
    return found


def _title(path: Path) -> str:
    try:
        return str(tomllib.loads(read_source(path).decode()).get("title", ""))
    except (ScenarioError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return in_a_line(error)
