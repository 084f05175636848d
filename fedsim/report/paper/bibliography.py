"""BibTeX of the methods behind the rows of a table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fedsim.core.registry.index import entry_of
from fedsim.core.registry.method import ARXIV, Entry, Kind
from fedsim.core.result_files import SWEEP
from fedsim.experiment.sweep.results import iterate_records
from fedsim.record import ATTACKS, ArmRecord
from fedsim.report.document import Table
from fedsim.report.document.latex import escape_latex
from fedsim.report.paper.selection import names_of_rows
from fedsim.report.sweep.gathered import gather
from fedsim.report.verdict import RunJudge

_PAPERS = Path(__file__).with_name("papers.toml")
_HEAD = "Papers of the methods of a table, written by fedsim export"
_TABLES: Mapping[str, Kind] = {
    "data": "dataset",
    "model": "model",
    "components": "component",
    "defenses": "defense",
    "aggregation": "aggregator",
}
"""Kind of the methods in a table of the scenario."""


class Paper(NamedTuple):
    """A paper; unknown fields are empty, and an incomplete list of authors ends with "others"."""

    key: str
    id: str
    year: int
    title: str = ""
    authors: tuple[str, ...] = ()
    venue: str = ""


class MethodName(NamedTuple):
    """A method by its kind and its name."""

    kind: Kind
    name: str


@cache
def papers_by_id() -> dict[str, Paper]:
    """Return the papers by the id that registry decorators state."""
    entries = tomllib.loads(_PAPERS.read_text(encoding="utf-8"))
    papers = [
        Paper(key=key, **{**fields, "authors": tuple(fields.get("authors", ()))}) for key, fields in entries.items()
    ]
    return {paper.id: paper for paper in papers}


def methods_in(folder: Path, table: Table) -> list[MethodName]:
    """Return the methods behind the rows of a table, each once: data set, model, defenses, attacks and question.

    A row without an attack's label stands for all attacks of its arm.

    Args:
        folder: folder of the run or sweep.
        table: selected rows of a table of its page.
    """
    rows = names_of_rows(table)
    used = (
        method
        for row, judge, arm in _arms(folder)
        if (labels := {attack for name, attack in rows if name == row})
        for method in _methods_of(arm, judge.scenario_of(arm), labels)
    )
    return list(dict.fromkeys(used))


def _arms(folder: Path) -> Iterator[tuple[str, RunJudge, ArmRecord]]:
    """Yield the arms of a run or sweep, each with the name of its rows and the judge of its record."""
    names = {}
    if (folder / SWEEP).exists():
        settings = gather(folder).settings
        names = {(cell.digest, cell.arm): setting.name for setting in settings for cell in setting.cells}
    for planned, record in iterate_records(folder):
        if not isinstance(record, str):
            judge = RunJudge.of(record)
            for number, arm in enumerate(record.arms):
                yield names.get((planned.digest, number), arm.name), judge, arm


def _methods_of(arm: ArmRecord, scenario: Mapping[str, Any], labels: set[str]) -> Iterator[MethodName]:
    for table, kind in _TABLES.items():
        choices = scenario.get(table, ())
        for choice in [choices] if isinstance(choices, Mapping) else choices:
            if "name" in choice:
                yield MethodName(kind, str(choice["name"]))
    for finding in arm.findings:
        if "" in labels or finding.label in labels:
            if finding.question != ATTACKS:
                yield MethodName("question", finding.question)
            if finding.method:
                yield MethodName("attack", finding.method)


def to_bibtex(methods: Iterable[MethodName]) -> str:
    """Return a BibTeX entry for every paper of the methods; comments name the methods."""
    used: dict[str, list[str]] = {}
    without: list[str] = []
    for method in methods:
        entry = entry_of(*method)
        cited = _cited(entry) if entry else {}
        for paper, relation in cited.items():
            used.setdefault(paper, []).append(f"{method.kind} {method.name}: {relation}")
        if not cited:
            without.append(method.name)
    blocks = [_entry(papers_by_id()[paper], relations) for paper, relations in used.items()]
    if without:
        blocks.append(_comment(f"no paper is known of: {', '.join(without)}"))
    return "\n\n".join([_comment(_HEAD), *blocks]) + "\n"


def _cited(entry: Entry) -> dict[str, str]:
    """Return the relation of a method to its papers, by id."""
    related = {entry.related: f"builds on, attacks or undoes {entry.related}"} if entry.related else {}
    return {**related, **({entry.paper: entry.origin} if entry.paper else {})}


def _entry(paper: Paper, relations: Iterable[str]) -> str:
    fields = {
        "author": " and ".join(name if name == "others" else f"{{{escape_latex(name)}}}" for name in paper.authors),
        "title": f"{{{escape_latex(paper.title)}}}" if paper.title else "",
        "year": str(paper.year),
        "howpublished": escape_latex(paper.venue),
    }
    if not paper.authors:
        fields["key"] = paper.key  # BibTeX sorts by it
    if ARXIV.fullmatch(paper.id):
        fields |= {"eprint": paper.id, "archivePrefix": "arXiv"}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([*map(_comment, relations), f"@misc{{{paper.key},", *lines, "}"])


def _comment(text: str) -> str:
    return f"% {' '.join(text.replace('@', ' at ').split())}"
