"""Measured attack success compared with the upper bounds that an (epsilon, delta) guarantee implies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fedsim.core import registry
from fedsim.metrics.membership import LOW_FPR, name_of
from fedsim.privacy.bounds import membership_ceiling, reconstruction_ceiling
from fedsim.record import ArmRecord, AttackFinding, Finding, GuaranteeRecord, Interval, RunRecord
from fedsim.report.verdict import RunJudge

COLUMNS = ("arm", "method", "epsilon", "delta", "what", "attack", "measured", "low", "high", "prior", "ceiling")
COLUMNS = (*COLUMNS, "audited_floor")


class BoundComparison(NamedTuple):
    """An attack in an arm with a guarantee.

    Attributes:
        quantity: attack goal: reconstruction, or membership inference at a false-positive rate.
        prior: success without an observation: the share of images recovered by their own mean, at least
            1 / (images + 1); or the false-positive rate.
        ceiling: upper bound on the success of any attack.
        floor: lower bound on epsilon from an audit of the guarantee; None without an audit.
    """

    arm: str
    method: str
    epsilon: float
    delta: float
    quantity: str
    attack: str
    measured_value: float
    low: float
    high: float
    prior: float
    ceiling: float
    floor: float | None


class GuaranteedArm(NamedTuple):
    """An arm, or a setting of a sweep, with a guarantee; its findings may contain an audit of the guarantee."""

    name: str
    findings: Sequence[Finding]
    guarantee: GuaranteeRecord

    def membership(self, attack: str, rate: Interval, fpr: float) -> BoundComparison:
        """Return the mark of a membership attack: its TPR at a false-positive rate, with the ceiling."""
        ceiling = membership_ceiling(self.guarantee.epsilon, self.guarantee.delta, fpr)
        return self._mark(f"membership, FPR {fpr:g}", attack, rate, fpr, ceiling)

    def reconstruction(self, attack: str, rule: str, rate: Interval, prior: float) -> BoundComparison:
        """Return the mark of an attack on updates with its ceiling; `rule` is the success rule in words."""
        ceiling = reconstruction_ceiling(self.guarantee.epsilon, self.guarantee.delta, prior)
        return self._mark(f"reconstruction, {rule}", attack, rate, prior, ceiling)

    def _mark(self, label: str, attack: str, rate: Interval, prior: float, ceiling: float) -> BoundComparison:
        low, high = (rate.value if bound is None else bound for bound in (rate.low, rate.high))
        audited = ("audit", self.guarantee.source)
        audits = [
            finding.value.value
            for finding in self.findings
            if finding.value and (finding.question, finding.label) == audited
        ]
        key = (self.name, self.guarantee.source, self.guarantee.epsilon, self.guarantee.delta)
        return BoundComparison(
            *key, label, attack, rate.value, low, high, prior, ceiling, floor=max(audits, default=None)
        )


def marks(record: RunRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge) -> tuple[BoundComparison, ...]:
    """Return every attack bounded by a guarantee, with its ceiling; guarantees of infinite epsilon are skipped.

    Reconstruction attacks are run by the server, so they are bounded only if the guarantee holds against the server.
    """
    return tuple(
        mark
        for arm in record.arms
        for guarantee in arm.guarantees
        if math.isfinite(guarantee.epsilon)
        for guaranteed in [GuaranteedArm(arm.name, arm.findings, guarantee)]
        for mark in (*_memberships(guaranteed), *_reconstructions(guaranteed, arm, arrays, judge))
    )


def _memberships(guaranteed: GuaranteedArm) -> Iterator[BoundComparison]:
    for finding in guaranteed.findings:
        for fpr in LOW_FPR:
            rate = finding.figures.get(name_of(fpr)) if finding.question == "membership" else None
            if rate is not None:
                yield guaranteed.membership(finding.label, rate, fpr)


def _reconstructions(
    guaranteed: GuaranteedArm, arm: ArmRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge
) -> Iterator[BoundComparison]:
    if not guaranteed.guarantee.holds_against_server:
        return
    for attack in arm.attacks:
        prior = blind(attack, arrays, judge)
        if prior is not None and attack.value is not None:
            yield guaranteed.reconstruction(attack.label, judge.rule(attack), attack.value, prior)


def blind(attack: AttackFinding, arrays: Mapping[str, np.ndarray], judge: RunJudge) -> float | None:
    """Return the share of an attack's originals that their mean image recovers.

    None without images, or if the deciding metric is not installed or does not compare images.
    """
    metric = judge.deciding_metric(attack)
    stored = [arrays[f"{v.arrays}/originals"] for v in attack.victims if f"{v.arrays}/originals" in arrays]
    if not stored or not metric.is_image_metric or metric.name not in registry.entries("metric"):
        return None
    compare = registry.get("metric", metric.name).make
    originals = torch.from_numpy(np.concatenate(stored))
    blind = originals.mean(0, keepdim=True).expand_as(originals)
    close = sum(metric.is_beyond(value, judge.scoring.threshold) for value in compare(blind, originals).tolist())
    return max(1, close) / (len(originals) + 1)
