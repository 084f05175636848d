"""What became of every threshold of a policy, one by one.

A threshold is judged on the interval: broken only if its lower end breaks it, kept only if its upper end keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedsim.audit import evidence
from fedsim.audit.record import AuditRecord, Inspection, Trial
from fedsim.metrics.evidence import Light, held
from fedsim.metrics.membership import name_of
from fedsim.record import Finding, GuaranteeRecord, Interval
from fedsim.record.policy import Policy

MEMBERS_FOUND = name_of(0.01)  # the metric of max_membership_tpr
_UNSCORED = "max_recognisable was not judged, since no reconstruction was scored"


class JudgedThreshold(NamedTuple):
    """One threshold of the policy: its name, what became of it, and why: a sentence, or the reason of one that is open.

    A reason has no full stop.
    """

    rule: str
    where: str
    state: Light
    why: str = ""

    @property
    def sentence(self) -> str:
        """Why, as a sentence; empty where it is kept."""
        return f"Undecided: {self.why}." if self.state == "undecided" else self.why


def of_client(record: AuditRecord) -> Iterator[JudgedThreshold]:
    """Yield what became of every threshold that the policy states of the client as it is."""
    is_scored = any(one.recovered is not None and not one.is_unknown for one in record.inspections)
    for inspection in record.inspections:
        for threshold in _recognisable(record.policy, inspection, record.plan.scoring.confidence):
            yield _with_doubts(record, inspection, threshold) if is_scored else _open(threshold, _UNSCORED)
    yield from _members(record.policy, record.findings)
    yield from _epsilon(record.policy, record.guarantees)


def of_trial(record: AuditRecord, trial: Trial) -> Iterator[JudgedThreshold]:
    """Yield what becomes of every threshold for a client with one more defense."""
    if trial.inspection is not None:
        yield from _recognisable(record.policy, trial.inspection, record.plan.scoring.confidence)
    yield from _members(record.policy, trial.findings)
    yield from _epsilon(record.policy, trial.guarantees)
    yield from _accuracy(record.policy, trial.accuracy_loss)


def best_membership(findings: Sequence[Finding]) -> tuple[str, Interval] | None:
    """Return name and TPR at 1 % FPR of the best membership attack; None where there are too few data."""
    rates = [(finding.label, tpr) for finding in findings if (tpr := finding.figures.get(MEMBERS_FOUND))]
    return max(rates, key=lambda rate: rate[1].value) if rates else None


def share_of(inspection: Inspection) -> str:
    """Return which share of the examples was recovered, for people."""
    share = inspection.summary.success if inspection.summary else None
    if share is None:
        return "an unknown share"
    if share.low is None or share.high is None:
        return f"{100 * share.value:.0f} %"
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _with_doubts(record: AuditRecord, inspection: Inspection, threshold: JudgedThreshold) -> JudgedThreshold:
    """Return a threshold that only evidence keeps."""
    if threshold.state == "broken":
        return threshold
    if inspection.failure is not None:
        return _open(threshold, f"max_recognisable on {threshold.where} was not judged: {inspection.failure}")
    reasons = [*evidence.doubts(inspection, record.plan.scoring), *filter(None, [threshold.why])]
    why = f"max_recognisable on {threshold.where}, since {'; '.join(reasons)}"
    return _open(threshold, why) if reasons else threshold


def _open(threshold: JudgedThreshold, why: str) -> JudgedThreshold:
    return threshold._replace(state="undecided", why=why)


def _recognisable(policy: Policy, inspection: Inspection, confidence: float) -> Iterator[JudgedThreshold]:
    rule, limit, where = "max_recognisable", policy.max_recognisable, f"batch {inspection.batch_size}"
    if limit is None:
        return
    share = inspection.summary.success if inspection.summary else None
    state = "kept" if share is None else held(share, limit)
    why = ""
    if state == "broken":
        why = f"{rule} = {limit:g}, but {share_of(inspection)} of the attacked examples of {where} were recovered."
    elif state == "undecided" and share is not None:
        least, most = 100 * (share.low or 0.0), 100 if share.high is None else 100 * share.high
        more = evidence.more(inspection, limit, confidence)
        why = f"n = {share.n} leaves {least:.0f} to {most:.0f} % open and the limit is {100 * limit:g} %"
        why = f"{why}: {more}" if more else why
    yield JudgedThreshold(rule, where, state, why)


def _members(policy: Policy, findings: Sequence[Finding]) -> Iterator[JudgedThreshold]:
    rule, limit, best = "max_membership_tpr", policy.max_membership_tpr, best_membership(findings)
    if limit is None:
        return
    if best is None:
        why = (
            f"{rule} was not judged, since no membership attack came to a rate at 1 % false positives, which takes "
            "time and at least 100 non-members, half of the test data"
        )
        yield JudgedThreshold(rule, "membership", "undecided", why)
        return
    name, tpr = best
    most = 100 if tpr.high is None else 100 * tpr.high
    why = {
        "kept": "",
        "undecided": f"{name} may find up to {most:.0f} % of the members, and the limit is {100 * limit:g} %",
        "broken": f"{rule} = {limit:g}, but {name} finds {100 * tpr.value:.0f} % of the members at 1 % false "
        "positives.",
    }
    state = held(tpr, limit)
    yield JudgedThreshold(rule, "membership", state, why[state])


def _epsilon(policy: Policy, stated: Sequence[GuaranteeRecord]) -> Iterator[JudgedThreshold]:
    rule, limit = "max_epsilon", policy.max_epsilon
    if limit is None:
        return
    weakest = max((guarantee.epsilon for guarantee in stated), default=None)
    if weakest is None:
        why = f"{rule} = {limit:g}, but nothing in the client states an epsilon."
    else:
        why = f"{rule} = {limit:g}, but the weakest guarantee is epsilon {weakest:.3g}." if weakest > limit else ""
    yield JudgedThreshold(rule, "guarantees", "broken" if why else "kept", why)


def _accuracy(policy: Policy, lost: Interval | None) -> Iterator[JudgedThreshold]:
    rule, limit = "max_accuracy_loss", policy.max_accuracy_loss
    if limit is None or lost is None or lost.high is None:
        return
    why = {
        "kept": "",
        "undecided": f"it may cost up to {100 * lost.high:.1f} points of test accuracy, and the limit is "
        f"{100 * limit:g} points",
        "broken": f"{rule} = {limit:g}, but it costs {100 * lost.value:.1f} points of test accuracy.",
    }
    state = held(lost, limit)
    yield JudgedThreshold(rule, "accuracy", state, why[state])
