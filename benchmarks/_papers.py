"""The table of what methods are to their papers, made of their decorators."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import Kind

_HEADINGS: dict[Kind, str] = {
    "attack": "Attacks",
    "membership": "Membership attacks",
    "attribute": "Attacks on attributes",
    "trace": "Attacks on traces",
    "defense": "Defenses",
    "aggregator": "Aggregators",
    "component": "Components",
}
_HEAD = ("| method | paper | fidelity | what differs |", "| --- | --- | --- | --- |")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


def as_tables() -> str:
    """Return Markdown: a table for each kind that has methods of papers, sorted by name."""
    tables = ((heading, list(_lines(kind))) for kind, heading in _HEADINGS.items())
    return "\n\n".join("\n".join((f"## {heading}", "", *_HEAD, *lines)) for heading, lines in tables if lines)


def _lines(kind: Kind) -> Iterator[str]:
    for name, entry in sorted(entries_of(kind).items()):
        if entry.paper:
            yield f"| `{name}` | {_link(entry.paper)} | {entry.fidelity} | {entry.deviates} |"


def _link(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper})" if _ARXIV.fullmatch(paper) else paper
