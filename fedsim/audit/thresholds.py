"""What became of every threshold of a policy, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fedsim.audit import verdict
from fedsim.audit.record import AuditRecord
from fedsim.metrics.evidence import Light


class Threshold(NamedTuple):
    """One threshold of the policy: its name, what became of it, and why in a sentence."""

    rule: str
    where: str
    state: Light
    text: str


def judge(record: AuditRecord) -> tuple[Threshold, ...]:
    """Return what became of every threshold that the policy states of the client."""
    return tuple(_thresholds(record))


def _thresholds(record: AuditRecord) -> Iterator[Threshold]:
    policy = record.policy
    if policy.max_recognisable is not None:
        for inspection in record.inspections:
            where = f"batch {inspection.batch_size}"
            yield _one(record, "max_recognisable", where, {"inspections": (inspection,)})
    if policy.max_membership_tpr is not None:
        yield _one(record, "max_membership_tpr", "membership", {"inspections": ()})
    if policy.max_epsilon is not None:
        yield _one(record, "max_epsilon", "guarantees", {"inspections": ()})


def _one(record: AuditRecord, rule: str, where: str, part: dict[str, Any]) -> Threshold:
    """Judge one threshold alone, by the same functions as the whole."""
    alone = {name: None for name in type(record.policy).model_fields if name.startswith("max_") and name != rule}
    only = record.model_copy(update={**part, "policy": record.policy.model_copy(update=alone)})
    if broken := verdict.broken(only):
        return Threshold(rule, where, "broken", " ".join(broken))
    if unjudged := verdict.unjudged(only):
        return Threshold(rule, where, "undecided", " ".join(unjudged))
    return Threshold(rule, where, "kept", "")
