"""`fedsim list`."""

from __future__ import annotations

import json
import pydoc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import command, say, screen
from fedsim.core.errors import FedsimError, ScenarioError, did_you_mean, first_line
from fedsim.core.registry.method import Tier
from fedsim.core.source import list_scenarios, read_tables

if TYPE_CHECKING:
    from fedsim.core import registry

_KINDS: dict[str, registry.Kind] = {
    "attacks": "attack",
    "distances": "distance",
    "priors": "prior",
    "attentions": "attention",
    "defenses": "defense",
    "components": "component",
    "aggregators": "aggregator",
    "questions": "question",
    "metrics": "metric",
    "tasks": "task",
    "models": "model",
    "data": "dataset",
}
_TIERS = (*get_args(Tier), "all")
_WIDEST_NAME = 40  # columns; half of a narrow screen


@command(name="list", epilog="Example: fedsim list attacks --tier all --json")
def list_(
    group: Annotated[
        str | None,
        typer.Argument(metavar="GROUP", help=f"{', '.join(_KINDS)} or scenarios; absent: the names of all"),
    ] = None,
    tier: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(_TIERS)}; core: methods that a defender runs; baseline: published methods for "
            "comparison; research: methods for narrow conditions"
        ),
    ] = "core",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List attacks, defenses, components, models, data, scenarios and the other groups."""
    kinds = [*_KINDS, "scenarios"]
    if group is not None and group not in kinds:
        raise FedsimError(f"unknown list '{group}'.{did_you_mean(group, kinds)}")
    if tier not in _TIERS:
        raise FedsimError(f"--tier is '{tier}', expected {', '.join(_TIERS)}.{did_you_mean(tier, _TIERS)}")
    groups = [group] if group else kinds
    known = {name: _entries(name) for name in groups}
    entries = {name: [entry for entry in of_group if tier in (entry.tier, "all")] for name, of_group in known.items()}
    if as_json:
        say(json.dumps([asdict(entry) for members in entries.values() for entry in members], indent=1))
        return
    with screen.capture() as shown:
        if group is None:
            _show_names(entries, known)
        else:
            _show_entries(entries[group])
            if others := _other_tier_counts(known[group], entries[group]):
                say(f"{others}: fedsim list {group} --tier all")
    _page(shown.get())


def _page(text: str) -> None:
    """Print a text; page it on a terminal if it has more lines than the screen."""
    if screen.is_terminal and text.count("\n") >= screen.height:
        pydoc.pager(text)
    else:
        screen.print(Text(text), end="", soft_wrap=True)


def _show_names(entries: dict[str, list[_Entry]], known: dict[str, list[_Entry]]) -> None:
    for group, of_group in entries.items():
        total = f" of {len(known[group])}" if len(of_group) < len(known[group]) else ""
        say(f"{group} ({len(of_group)}{total}): fedsim list {group}")
        families = {family: ", ".join(entry.name for entry in members) for family, members in _families(of_group)}
        _show_rows(families)
        say("")
    if any(len(of_group) < len(known[group]) for group, of_group in entries.items()):
        say("Methods of all tiers, core, baseline and research: fedsim list --tier all")


def _other_tier_counts(known: list[_Entry], listed: list[_Entry]) -> str:
    """Return the numbers of methods in the tiers that are not listed, e.g. "12 baseline and 2 research"."""
    counts = Counter(entry.tier for entry in known) - Counter(entry.tier for entry in listed)
    return " and ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _show_entries(entries: list[_Entry]) -> None:
    """Print names and summaries of a group, family by family."""
    for family, members in _families(entries):
        if family:
            say(family)
        _show_rows({entry.name: _sentence(entry) for entry in members})


def _show_rows(rows: Mapping[str, str]) -> None:
    """Print names with their texts in two columns; a long name wraps."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=min(max(map(len, rows), default=0), _WIDEST_NAME) + 2, overflow="fold")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(Text(f"  {name}"), Text(text))
    screen.print(table)


def _sentence(entry: _Entry) -> str:
    return entry.summary + (f" (also: {', '.join(entry.aliases)})" if entry.aliases else "")


@dataclass(frozen=True)
class _Entry:
    """An entry of the list; `related` is a paper other than the method's own, `family` the folder of a method."""

    group: str
    name: str
    summary: str
    tier: str = "core"
    paper: str = ""
    fidelity: str = ""
    deviates: str = ""
    related: str = ""
    hook: str = ""
    family: str = ""
    aliases: list[str] = field(default_factory=list)


def _families(entries: Iterable[_Entry]) -> Iterator[tuple[str, list[_Entry]]]:
    family = attrgetter("family")
    for name, members in groupby(sorted(entries, key=family), key=family):
        yield name, list(members)


def _entries(group: str) -> list[_Entry]:
    if group == "scenarios":
        return [_Entry(group, name, _title(path)) for name, path in list_scenarios().items()]
    from fedsim.core import registry

    return [
        _Entry(
            group=group,
            name=m.name,
            summary=m.summary,
            tier=m.tier,
            paper=m.paper,
            fidelity=m.fidelity or "",
            deviates=m.deviates,
            related=m.related,
            hook=m.hook or "",
            family=_family(m),
            aliases=list(m.aliases),
        )
        for m in registry.entries(_KINDS[group]).values()
    ]


def _family(method: registry.Entry) -> str:
    """Return the folder of a method among the methods of its kind, or the package of a third-party method."""
    if method.kind not in ("attack", "defense", "component"):
        return ""
    *folders, _ = method.module.split(".")
    return folders[-1] if folders else method.module


def _title(path: Path) -> str:
    try:
        tables = read_tables(path)
    except ScenarioError as error:
        return first_line(error)
    return str(tables.get("title", ""))
