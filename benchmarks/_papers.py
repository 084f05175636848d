"""The tables of what methods are to their papers, and of the papers' steps, made of the methods' decorators."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import KINDS, Entry, Kind

_PACKAGES = ("attacks", "defenses", "fedsim")
_HEADINGS: dict[Kind, str] = {
    "attack": "Attacks",
    "defense": "Defenses",
    "aggregator": "Aggregators",
    "component": "Components",
}
_HEAD = ("| method | tier | paper | fidelity | what differs |", "| --- | --- | --- | --- | --- |")
_HEAD_OF_STEPS = ("| method | step of the paper | code | oracle |", "| --- | --- | --- | --- |")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


def as_tables() -> str:
    """Return Markdown: a table for each kind that has methods of papers, sorted by name."""
    tables = ((heading, list(_lines(kind))) for kind, heading in _HEADINGS.items())
    papers = "\n\n".join("\n".join((f"## {heading}", "", *_HEAD, *lines)) for heading, lines in tables if lines)
    return "\n".join((papers, "", "## Step by step", "", *_HEAD_OF_STEPS, *_lines_of_steps()))


def stepwise() -> list[Entry]:
    """Return what methods say that name the steps of their papers, by kind and name."""
    return [entry for kind in KINDS for _, entry in sorted(entries_of(kind).items()) if entry.paper_steps]


def place_of(entry: Entry, code: str) -> str:
    """Return the full name of a step's code."""
    return code if "." in code and code.split(".", maxsplit=1)[0] in _PACKAGES else f"{entry.module}.{code}"


def oracle_of(entry: Entry, test: str) -> str:
    """Return the path of a step's test, as pytest takes it."""
    if "::" in test:
        return test
    *rooms, name = entry.module.removeprefix("fedsim.").split(".")
    return "/".join(("tests", *rooms, f"test_{name}.py")) + f"::{test}"


def places_of(entry: Entry, code: str, test: str) -> tuple[str, str] | None:
    """Return the full name of a step's code and the path of its test, or None if the step is not built."""
    return (place_of(entry, code), oracle_of(entry, test)) if code else None


def _lines_of_steps() -> Iterator[str]:
    for entry in stepwise():
        for step, code, test in entry.paper_steps:
            places = places_of(entry, code, test)
            built = " | ".join(map("`{}`".format, places)) if places else "not built | "
            yield f"| `{entry.name}` | {step} | {built} |"


def _lines(kind: Kind) -> Iterator[str]:
    for name, entry in sorted(entries_of(kind).items()):
        if entry.paper:
            yield f"| `{name}` | {entry.tier} | {link(entry.paper)} | {entry.fidelity} | {entry.deviates} |"


def link(paper: str) -> str:
    """Return a paper as a link to arXiv, if it is there."""
    return f"[{paper}](https://arxiv.org/abs/{paper})" if _ARXIV.fullmatch(paper) else paper
