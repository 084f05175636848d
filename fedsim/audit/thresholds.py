"""What became of every threshold of a policy, one by one.

A threshold is judged on the interval: broken only if its lower end breaks it, kept only if its upper end keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedsim.audit import evidence
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.audit.scoring import verdict_of
from fedsim.core import registry
from fedsim.judgement.limits import LimitState, held
from fedsim.judgement.policy import Policy
from fedsim.metrics.membership import name_of
from fedsim.record import Finding, GuaranteeRecord, Interval
from fedsim.record.guarantees import weakest_against_server
from fedsim.report.verdict import bounds, with_bounds

MEMBERS_FOUND = name_of(0.01)  # the metric of max_membership_tpr
_SEVERITY: dict[LimitState, int] = {"kept": 0, "undecided": 1, "broken": 2}
_UNSCORED = "max_recognisable was not judged, since no reconstruction was scored"


class JudgedThreshold(NamedTuple):
    """One threshold of the policy: its name, what became of it, and why: a sentence, or the reason of one that is open.

    A reason has no full stop.
    """

    rule: str
    where: str
    state: LimitState
    why: str = ""

    @property
    def sentence(self) -> str:
        """Why, as a sentence; empty where it is kept."""
        return f"Undecided: {self.why}." if self.state == "undecided" else self.why


def of_client(record: AuditRecord) -> Iterator[JudgedThreshold]:
    """Yield what became of every threshold that the policy states of the client as it is."""
    is_scored = any(arm.recovered for arm in record.client)
    for arm in record.client:
        for threshold in _recognisable(record, arm):
            yield _with_doubts(record, arm, threshold) if is_scored else _open(threshold, _UNSCORED)
    yield from of_members(record.policy, record.of("membership"))
    yield from of_figures(record.policy, [finding for arm in record.client for finding in arm.findings])
    yield from _epsilon(record.policy, record.guarantees)


def of_defense(record: AuditRecord, arm: AuditArm) -> Iterator[JudgedThreshold]:
    """Yield what becomes of every threshold for a client with one more defense."""
    if arm.victims:
        yield from _recognisable(record, arm)
    yield from of_members(record.policy, arm.of("membership"))
    yield from of_figures(record.policy, arm.findings)
    yield from _epsilon(record.policy, arm.guarantees)
    yield from _accuracy(record.policy, arm.cost.accuracy_loss if arm.cost else None)


def best_membership(findings: Sequence[Finding]) -> tuple[str, Interval] | None:
    """Return name and TPR at 1 % FPR of the best membership attack; None where there are too few data."""
    rates = _members_found([one for one in findings if not one.invalid])
    return max(rates, key=lambda rate: rate[1].value) if rates else None


def _members_found(findings: Sequence[Finding]) -> list[tuple[str, Interval]]:
    """Return name and TPR at 1 % FPR of each membership attack that has one."""
    return [(finding.label, tpr) for finding in findings if (tpr := finding.figures.get(MEMBERS_FOUND))]


def share_of(arm: AuditArm) -> str:
    """Return which share of the examples was recovered, for people."""
    if arm.recovered is None:
        return "an unknown share"
    return with_bounds(f"{100 * arm.recovered.value:.0f} %", bounds(arm.recovered, 100, 0))


def _with_doubts(record: AuditRecord, arm: AuditArm, threshold: JudgedThreshold) -> JudgedThreshold:
    """Return a threshold that only evidence keeps."""
    if threshold.state == "broken":
        return threshold
    if arm.failure:
        return _open(threshold, f"max_recognisable on {threshold.where} was not judged: {arm.failure}")
    reasons = [*evidence.doubts(arm, record.plan.scoring.rule), *filter(None, [threshold.why])]
    why = f"max_recognisable on {threshold.where}, since {'; '.join(reasons)}"
    return _open(threshold, why) if reasons else threshold


def _open(threshold: JudgedThreshold, why: str) -> JudgedThreshold:
    return threshold._replace(state="undecided", why=why)


def _recognisable(record: AuditRecord, arm: AuditArm) -> Iterator[JudgedThreshold]:
    policy, confidence, word = record.policy, record.plan.scoring.confidence, verdict_of(record)
    rule, limit, where = "max_recognisable", policy.max_recognisable, f"batch {arm.batch_size}"
    if limit is None:
        return
    share = arm.recovered
    state = "kept" if share is None else held(share, limit)
    why = ""
    if state == "broken":
        why = f"{rule} = {limit:g}, but {share_of(arm)} of the attacked examples of {where} were {word}."
    elif state == "undecided" and share is not None:
        least, most = 100 * (share.low or 0.0), 100 if share.high is None else 100 * share.high
        more = evidence.more(arm, limit, confidence)
        why = f"n = {share.n} leaves {least:.0f} to {most:.0f} % open and the limit is {100 * limit:g} %"
        why = f"{why}: {more}" if more else why
    yield JudgedThreshold(rule, where, state, why)


def of_members(policy: Policy, findings: Sequence[Finding]) -> Iterator[JudgedThreshold]:
    """Yield the state of `max_membership_tpr`: the worst over all attacks; nothing where it is not stated."""
    rule, limit = "max_membership_tpr", policy.max_membership_tpr
    if limit is None:
        return
    invalid = [one for one in findings if one.invalid and one.figures.get(MEMBERS_FOUND)]
    rates = _members_found([one for one in findings if not one.invalid])
    if not rates and not invalid:
        why = (
            f"{rule} was not judged, since no membership attack came to a rate at 1 % false positives, which takes "
            "time and at least 100 non-members, half of the test data"
        )
        yield JudgedThreshold(rule, "membership", "undecided", why)
        return
    judged = [_of_attack(rule, limit, name, tpr) for name, tpr in sorted(rates, key=_reach, reverse=True)]
    judged += [_open_since_invalid(rule, "membership", one) for one in invalid]
    yield max(judged, key=lambda threshold: _SEVERITY[threshold.state])  # of equals the first, which reaches furthest


def _of_attack(rule: str, limit: float, name: str, tpr: Interval) -> JudgedThreshold:
    """Return the state of a limit on the members that one attack finds."""
    most = 100 if tpr.high is None else 100 * tpr.high
    why = {
        "kept": "",
        "undecided": f"{name} may find up to {most:.0f} % of the members, and the limit is {100 * limit:g} %",
        "broken": f"{rule} = {limit:g}, but {name} finds {100 * tpr.value:.0f} % of the members at 1 % false "
        "positives.",
    }
    state = held(tpr, limit)
    return JudgedThreshold(rule, "membership", state, why[state])


def _reach(rate: tuple[str, Interval]) -> tuple[float, float]:
    """Return the upper end of an attack's rate, then the rate."""
    _, tpr = rate
    return 1.0 if tpr.high is None else tpr.high, tpr.value


def _open_since_invalid(rule: str, where: str, finding: Finding) -> JudgedThreshold:
    return JudgedThreshold(rule, where, "undecided", f"{finding.label} is invalid, since {finding.invalid}")


def of_figures(policy: Policy, findings: Sequence[Finding]) -> Iterator[JudgedThreshold]:
    """Yield what became of every limit of ``[policy.findings]``, one for each attack that gives the figure."""
    for name, limit in policy.findings.items():
        figures = [(one, value) for one in findings if one.role == "attack" and (value := one.figures.get(name))]
        if not figures:
            yield JudgedThreshold(name, "findings", "undecided", f"{name} was not measured")
        for one, value in figures:
            label, state = one.label, held(value, limit)
            if one.invalid:
                yield _open_since_invalid(name, label, one)
                continue
            why = f"{label}, {value_in_words(name, value)}, n = {value.n}, and the limit is {limit:g}"
            yield JudgedThreshold(name, label, state, {"kept": "", "undecided": why, "broken": f"{why}."}[state])


def value_in_words(name: str, value: Interval) -> str:
    """Return a metric's title, and a value of it with its interval."""
    metric = registry.every_metric()[name]
    shown = f"{metric.scale * value.value:.{metric.digits}f}"
    return f"{metric.title} {with_bounds(shown, bounds(value, metric.scale, metric.digits))}{metric.suffix}"


def _epsilon(policy: Policy, stated: Sequence[GuaranteeRecord]) -> Iterator[JudgedThreshold]:
    rule, limit = "max_epsilon", policy.max_epsilon
    if limit is None:
        return
    weakest = weakest_against_server(stated)
    if not stated:
        why = f"{rule} = {limit:g}, but nothing in the client states an epsilon."
    elif weakest is None:
        why = f"{rule} = {limit:g}, but no guarantee holds against the server, which is the attacker."
    else:
        why = (
            f"{rule} = {limit:g}, but the weakest guarantee is epsilon {weakest.epsilon:.3g}."
            if weakest.epsilon > limit
            else ""
        )
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
