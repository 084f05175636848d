"""Verdict of a release check: recovered, withstood or undecided, and the states of the policy's thresholds.

A figure is recovered if its interval lies above chance and its permutation test is significant, after Holm over all
figures. It withstood if its whole interval lies at most a stated margin above chance. Otherwise it is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.audit.verdict import Answer
from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.judgement.limits import MEMBERS_FOUND, Case, Figure, JudgedLimit, figures_of, judge
from fedsim.metrics.comparison import holm
from fedsim.record import Finding, Outcome
from fedsim.record.validity import mark_invalid
from fedsim.release.membership import RARE
from fedsim.release.record import ReleaseRecord
from fedsim.report.limits import value_in_words

MARGIN, BITS = 0.1, 1.0  # above chance: of shares and the AUC, and of exposure
_LEAKS = {
    "membership": "members are distinguished from non-members",
    "sources": "the site of an example is inferred",
    "exposure": "the model remembers texts",
}
TO_HALVE = 4  # times as many examples halve an interval


def judge_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings with p after Holm over all figures; figures near chance get the flag `is_evidence`."""
    adjusted = iter(holm([finding.p_value for finding in findings if finding.p_value is not None]))
    return mark_invalid(
        [
            finding.model_copy(
                update={
                    "p_value": None if finding.p_value is None else next(adjusted),
                    "is_evidence": _is_evidence(finding),
                }
            )
            for finding in findings
        ]
    )


def _is_evidence(finding: Finding) -> bool:
    if finding.value is None or finding.value.high is None or finding.chance_level is None:
        return False
    return finding.value.high <= finding.chance_level + (BITS if finding.metric == "exposure" else MARGIN)


def answer(record: ReleaseRecord) -> Answer:
    """Return the main answer: the state of the worst figure, and a sentence."""
    by_state: dict[Outcome, list[Finding]] = {}
    for finding in record.attacks:
        by_state.setdefault(finding.state, []).append(finding)
    if recovered := by_state.get("recovered"):
        worst = max(
            recovered,
            key=lambda finding: (finding.value.low or 0.0) - (finding.chance_level or 0.0) if finding.value else 0.0,
        )
        leak = f"{_LEAKS[worst.question]} ({format_finding(worst)}; the control gives {_luck(record, worst)})"
        return Answer("recovered", f"Recovered: {leak}.")
    if invalid := by_state.get("invalid"):
        return Answer("invalid", f"Invalid: {invalid[0].label}, since {invalid[0].invalid}.")
    if opened := by_state.get("undecided", []):
        widest = max(opened, key=_reach)
        return Answer("undecided", f"Undecided: {format_finding(widest)}, may be luck or not; {to_halve(widest)}.")
    if "withstood" not in by_state:
        return Answer("undecided", "Undecided: no attack came to a figure; the reasons are listed below.")
    return Answer(
        "withstood", "Withstood: no attack that was tried is above chance, and every interval is narrow; no guarantee."
    )


def format_finding(finding: Finding) -> str:
    """Return a finding in words: attack, value with interval, and n."""
    value = value_in_words(finding.metric, finding.value) if finding.value else ""
    return f"{finding.label}, {value}, n = {finding.n}"


def metric_of(finding: Finding) -> Metric:
    """Return the declaration of a finding's metric."""
    return registry.every_metric()[finding.metric]


def to_halve(finding: Finding) -> str:
    """Return how many examples halve an interval."""
    return f"n = {TO_HALVE * finding.n} would halve the interval"


def thresholds(record: ReleaseRecord) -> list[JudgedLimit]:
    """Return the state of every limit of the policy that applies to a finished model."""
    missing = (
        f"max_membership_tpr needs {round(1 / RARE)} non-members, twice as many with "
        f"--reference, but has {record.non_members}"
    )
    members = figures_of(record.of("membership"), MEMBERS_FOUND)
    case = Case(
        members=members or [Figure("membership", None, missing_reason=missing)],
        findings={name: figures_of(record.attacks, name) for name in record.policy.findings},
    )
    return judge(record.policy, case)


def _reach(finding: Finding) -> float:
    return ((finding.value.high or 1.0) - (finding.chance_level or 0.0)) if finding.value else 0.0


def _luck(record: ReleaseRecord, finding: Finding) -> str:
    value = record.control_of(finding).value
    return "nothing" if value is None else metric_of(finding).format(value.value)
