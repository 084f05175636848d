"""Tables of documents for approvers: the limits of a policy, and requirements of external texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fedsim.judgement.limits import JudgedLimit
from fedsim.report.document import Table, TableCell, TableRow, table
from fedsim.report.limits import sentence


class Requirement(NamedTuple):
    """A requirement of an external text, paraphrased, and the evidence for it."""

    text: str
    asks: str
    has: str


def requirements_table(requirements: Iterable[Requirement]) -> Table:
    """Return a row per requirement."""
    return table("Requirements of other documents", ("text", "asks for", "here"), requirements, ("asks for", "here"))


def limits_table(judged: Sequence[JudgedLimit], longest: int | None = None) -> Table:
    """Return the state of each limit and its reason, cut after `longest` characters."""
    headings = ("threshold", "where", "state", "why")
    rows = [
        TableRow.of(limit.rule, limit.where, TableCell(limit.state, level=limit.state), cut(sentence(limit), longest))
        for limit in judged
    ]
    return table("Thresholds", headings, rows, headings)


def cut(text: str, longest: int | None) -> str:
    """Return a text of at most `longest` characters, cut after a word; None: the whole text."""
    return text if longest is None or len(text) <= longest else f"{text[:longest].rpartition(' ')[0]} ..."
