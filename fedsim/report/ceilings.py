"""Measured attacks below the ceilings that an epsilon sets: what a guarantee forbids, and how far attacks came."""

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


class Mark(NamedTuple):
    """One attack in one arm with a guarantee.

    Attributes:
        what: reconstruction, or membership at a false positive rate.
        prior: what is reached without seeing anything: the share of the images that their own mean recovers, at least
            1 / (images + 1); or the false positive rate.
        ceiling: the most that any attack can reach.
        floor: the least epsilon that an audit of the guarantee proved; None without one.
    """

    arm: str
    method: str
    epsilon: float
    delta: float
    what: str
    attack: str
    measured: float
    low: float
    high: float
    prior: float
    ceiling: float
    floor: float | None


class Guaranteed(NamedTuple):
    """An arm, or a setting of a sweep, with one of its guarantees; its findings may hold an audit of that."""

    name: str
    findings: Sequence[Finding]
    guarantee: GuaranteeRecord

    def membership(self, attack: str, rate: Interval, fpr: float) -> Mark:
        """Return a membership attack, at a rate of false alarms, below its ceiling."""
        ceiling = membership_ceiling(self.guarantee.epsilon, self.guarantee.delta, fpr)
        return self._mark(f"membership, FPR {fpr:g}", attack, rate, fpr, ceiling)

    def reconstruction(self, attack: str, rule: str, rate: Interval, prior: float) -> Mark:
        """Return an attack on updates below its ceiling; `rule` says in words when it has recovered an example."""
        ceiling = reconstruction_ceiling(self.guarantee.epsilon, self.guarantee.delta, prior)
        return self._mark(f"reconstruction, {rule}", attack, rate, prior, ceiling)

    def _mark(self, what: str, attack: str, rate: Interval, prior: float, ceiling: float) -> Mark:
        low, high = (rate.value if bound is None else bound for bound in (rate.low, rate.high))
        audited = ("audit", self.guarantee.source)
        audits = [one.value.value for one in self.findings if one.value and (one.question, one.label) == audited]
        of = (self.name, self.guarantee.source, self.guarantee.epsilon, self.guarantee.delta)
        return Mark(*of, what, attack, rate.value, low, high, prior, ceiling, floor=max(audits, default=None))


def marks(record: RunRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge) -> tuple[Mark, ...]:
    """Return every attack that a guarantee bounds, with its ceiling; guarantees of infinite epsilon bound nothing.

    Reconstructions are the server's, and are bounded only where the guarantee holds against it.
    """
    return tuple(
        mark
        for arm in record.arms
        for guarantee in arm.guarantees
        if math.isfinite(guarantee.epsilon)
        for of in [Guaranteed(arm.name, arm.findings, guarantee)]
        for mark in (*_memberships(of), *_reconstructions(of, arm, arrays, judge))
    )


def _memberships(of: Guaranteed) -> Iterator[Mark]:
    for finding in of.findings:
        for fpr in LOW_FPR:
            rate = finding.figures.get(name_of(fpr)) if finding.question == "membership" else None
            if rate is not None:
                yield of.membership(finding.label, rate, fpr)


def _reconstructions(
    of: Guaranteed, arm: ArmRecord, arrays: Mapping[str, np.ndarray], judge: RunJudge
) -> Iterator[Mark]:
    if not of.guarantee.holds_against_server:
        return
    for attack in arm.attacks:
        prior = blind(attack, arrays, judge)
        if prior is not None and attack.value is not None:
            yield of.reconstruction(attack.label, judge.rule(attack), attack.value, prior)


def blind(attack: AttackFinding, arrays: Mapping[str, np.ndarray], judge: RunJudge) -> float | None:
    """Return the share of an attack's originals that their mean image recovers.

    None without images, and where the metric that decides is not installed or takes something else.
    """
    metric = judge.deciding(attack)
    stored = [arrays[f"{v.arrays}/originals"] for v in attack.victims if f"{v.arrays}/originals" in arrays]
    if not stored or not metric.of_pictures or metric.name not in registry.entries("metric"):
        return None
    compare = registry.get("metric", metric.name).make
    originals = torch.from_numpy(np.concatenate(stored))
    blind = originals.mean(0, keepdim=True).expand_as(originals)
    close = sum(metric.is_beyond(value, judge.scoring.threshold) for value in compare(blind, originals).tolist())
    return max(1, close) / (len(originals) + 1)
