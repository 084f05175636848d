"""What a release check decides: recovered, withstood or undecided, and what the policy says of it.

A figure is recovered where its interval lies above chance and shuffled labels rarely come as far, after Holm over all
figures. It withstood where its whole interval lies at most a stated margin above chance. Else it is undecided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsim.audit.thresholds import JudgedThreshold, best_membership, of_figures, of_members, value_in_words
from fedsim.audit.verdict import BROKEN, UNDECIDED, Answer
from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.metrics.comparison import holm
from fedsim.record import Finding, Outcome
from fedsim.record.validity import mark_invalid
from fedsim.release.membership import RARE
from fedsim.release.record import ReleaseRecord

MARGIN, BITS = 0.1, 1.0  # above chance: of shares and the AUC, and of exposure
_LEAKS = {
    "membership": "members are told from others",
    "sources": "examples are told by the site they came from",
    "exposure": "the model remembers texts",
}
_MEMBERS = "max_membership_tpr"
TO_HALVE = 4  # times as many examples halve an interval


def judged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings with p after Holm over all figures, and whether those near chance are evidence."""
    adjusted = iter(holm([one.p for one in findings if one.p is not None]))
    return mark_invalid(
        [
            one.model_copy(update={"p": None if one.p is None else next(adjusted), "is_evidence": _is_evidence(one)})
            for one in findings
        ]
    )


def _is_evidence(one: Finding) -> bool:
    if one.value is None or one.value.high is None or one.chance is None:
        return False
    return one.value.high <= one.chance + (BITS if one.metric == "exposure" else MARGIN)


def answer(record: ReleaseRecord) -> Answer:
    """Return what a reader wants to know first: the state of the worst figure, and one sentence."""
    by_state: dict[Outcome, list[Finding]] = {}
    for one in record.attacks:
        by_state.setdefault(one.state, []).append(one)
    if recovered := by_state.get("recovered"):
        worst = max(recovered, key=lambda one: (one.value.low or 0.0) - (one.chance or 0.0) if one.value else 0.0)
        what = f"{_LEAKS[worst.question]} ({in_words(worst)}; the control gives {_luck(record, worst)})"
        return Answer("recovered", f"Recovered: {what}.")
    if invalid := by_state.get("invalid"):
        return Answer("invalid", f"Invalid: {invalid[0].label}, since {invalid[0].invalid}.")
    if opened := by_state.get("undecided", []):
        widest = max(opened, key=_reach)
        return Answer("undecided", f"Undecided: {in_words(widest)}, may be luck or not; {to_halve(widest)}.")
    if "withstood" not in by_state:
        return Answer("undecided", "Undecided: no attack came to a figure; the reasons are listed below.")
    return Answer(
        "withstood", "Withstood: no attack that was tried is above chance, and every interval is narrow; no guarantee."
    )


def in_words(one: Finding) -> str:
    """Return who found how much, with interval and n."""
    value = value_in_words(one.metric, one.value) if one.value else ""
    return f"{one.label}, {value}, n = {one.n}"


def metric_of(one: Finding) -> Metric:
    """Return what a finding's metric declares."""
    return registry.every_metric()[one.metric]


def to_halve(one: Finding) -> str:
    """Return how many examples halve an interval."""
    return f"n = {TO_HALVE * one.n} would halve the interval"


def thresholds(record: ReleaseRecord) -> Iterator[JudgedThreshold]:
    """Yield what became of every threshold of the policy that is about a finished model."""
    members = record.of("membership")
    if record.policy.max_membership_tpr is not None and best_membership(members) is None:
        why = (
            f"{_MEMBERS} needs {round(1 / RARE)} others, twice as many with --reference, and there are {record.others}"
        )
        yield JudgedThreshold(_MEMBERS, "membership", "undecided", why)
    else:
        yield from of_members(record.policy, members)
    yield from of_figures(record.policy, record.attacks)


def exit_code(record: ReleaseRecord) -> int:
    """Return 3 where a threshold is broken, 4 where one is undecided and the policy does not let it pass, else 0."""
    states = {one.state for one in thresholds(record)}
    if "broken" in states:
        return BROKEN
    return UNDECIDED if "undecided" in states and record.policy.undecided == "fail" else 0


def _reach(one: Finding) -> float:
    return ((one.value.high or 1.0) - (one.chance or 0.0)) if one.value else 0.0


def _luck(record: ReleaseRecord, one: Finding) -> str:
    value = record.control_of(one).value
    return "nothing" if value is None else metric_of(one).format(value.value)
