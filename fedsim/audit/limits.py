"""Limits of the policy in an audit: figures of the client as it is, or with a defense, and their states."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.audit import evidence
from fedsim.audit.record import AuditArm, AuditRecord
from fedsim.audit.scoring import verdict_of
from fedsim.judgement.limits import MEMBERS_FOUND, Case, Figure, JudgedLimit, figures_of, judge
from fedsim.judgement.policy import Policy
from fedsim.record import Finding, Interval

_UNSCORED = "max_recovered was not judged, since no reconstruction was scored"
_NO_RATE = (
    "max_membership_tpr was not judged, since no membership attack measured a rate at 1 % "
    "false positives, which needs time and at least 100 non-members, half of the test data"
)


def client_thresholds(record: AuditRecord) -> list[JudgedLimit]:
    """Return the state of every limit for the client as it is; its accuracy loss is not limited."""
    case = Case(
        recognisable=[_recognisable(record, arm) for arm in record.client],
        members=_members(record.of("membership")),
        findings=_findings(record.policy, [finding for arm in record.client for finding in arm.findings]),
        guarantees=record.guarantees,
    )
    return judge(record.policy, case)


def defense_thresholds(record: AuditRecord, arm: AuditArm) -> list[JudgedLimit]:
    """Return the state of every limit for the client with one more defense; a defense needs updates to be judged."""
    lost = arm.cost.accuracy_loss if arm.cost else None
    case = Case(
        recognisable=[_recovery_figure(record, arm)] if arm.victims else None,
        accuracy_loss=Figure("accuracy", lost, missing_reason="" if lost else "its cost has no interval"),
        members=_members(arm.findings_of("membership")),
        findings=_findings(record.policy, arm.findings),
        guarantees=arm.guarantees,
    )
    return judge(record.policy, case)


def best_membership(findings: Sequence[Finding]) -> tuple[str, Interval] | None:
    """Return name and TPR at 1 % FPR of the best membership attack; None where there are too few data."""
    rates = [
        (figure.label, figure.value)
        for figure in figures_of(findings, MEMBERS_FOUND)
        if figure.value and not figure.invalid
    ]
    return max(rates, key=lambda rate: rate[1].value, default=None)


def _recognisable(record: AuditRecord, arm: AuditArm) -> Figure:
    """Return the recovered share of a batch size; without a single scored reconstruction no batch size has one."""
    if not any(arm.recovered_share for arm in record.client):
        return Figure(f"batch {arm.batch_size}", None, missing_reason=_UNSCORED)
    if arm.failure:
        missing = f"max_recovered on batch {arm.batch_size} was not judged: {arm.failure}"
        return Figure(f"batch {arm.batch_size}", None, missing_reason=missing)
    return _recovery_figure(record, arm)


def _recovery_figure(record: AuditRecord, arm: AuditArm) -> Figure:
    limit, scoring = record.policy.max_recovered, record.plan.scoring
    return Figure(
        f"batch {arm.batch_size}",
        arm.recovered_share,
        doubts=evidence.doubts(arm, scoring.rule),
        word=verdict_of(record),
        advice="" if limit is None else evidence.needed_updates(arm, limit, scoring.confidence),
    )


def _members(findings: Sequence[Finding]) -> list[Figure]:
    return figures_of(findings, MEMBERS_FOUND) or [Figure("membership", None, missing_reason=_NO_RATE)]


def _findings(policy: Policy, findings: Sequence[Finding]) -> dict[str, list[Figure]]:
    return {name: figures_of(findings, name) for name in policy.findings}
