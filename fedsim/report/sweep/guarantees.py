"""Measured attacks between what epsilon forbids and the least epsilon that they prove."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from scipy.stats import beta

from fedsim.privacy.bounds import membership_ceiling, reconstruction_ceiling
from fedsim.record import GuaranteeRecord, Interval
from fedsim.report.ceilings import Mark
from fedsim.report.sweep.gathered import Sweep
from fedsim.report.sweep.points import FEW_FALSE_ALARMS, Point, attackers, infer_membership, risk


class Floor(NamedTuple):
    """What membership attacks prove about one setting: its epsilon is at least `floor`, at 95% confidence."""

    setting: str
    stated: str
    attack: str
    floor: float


def marks(sweep: Sweep, points: Sequence[Point], blind: Mapping[str, float]) -> list[Mark]:
    """Return every attack on a setting of finite epsilon, over all seeds, with the most that epsilon allows.

    `blind` holds what a guess without any update recovers of each `Setting.data`.
    """
    return [
        mark
        for point in points
        if point.guarantee and math.isfinite(point.epsilon)
        for mark in (
            *_memberships(point, point.guarantee),
            *_reconstructions(sweep, point, point.guarantee, blind.get(point.setting.data)),
        )
    ]


def floors(points: Sequence[Point], confidence: float = 0.95) -> list[Floor]:
    """Return the largest lower bound on epsilon of every setting with membership attacks.

    At a threshold with k of n members and j of m others accused, epsilon is at least log((TPR - delta) / FPR), with
    Clopper-Pearson bounds on both rates; their confidence is shared out over all thresholds and attacks of a setting.
    """
    return [floor for point in points if (floor := _floor(point, confidence))]


def odds(probability: float) -> str:
    """Return a probability as people judge it best: ``1 in 20``."""
    return "never" if probability <= 0 else f"1 in {max(1.0, 1 / probability):,.3g}"


def _memberships(point: Point, own: GuaranteeRecord) -> Iterator[Mark]:
    if point.membership is None:
        return
    label, rate = point.membership
    ceiling = membership_ceiling(own.epsilon, own.delta, FEW_FALSE_ALARMS)
    yield _mark(point, own, "membership, FPR 0.01", label, rate, FEW_FALSE_ALARMS, ceiling)


def _reconstructions(sweep: Sweep, point: Point, own: GuaranteeRecord, blind: float | None) -> Iterator[Mark]:
    if blind is None or not own.holds_against_server:
        return
    ceiling = reconstruction_ceiling(own.epsilon, own.delta, blind)
    for label in attackers(point.setting):
        found = risk(point.setting, label, sweep.judge)
        if found:
            yield _mark(point, own, f"reconstruction, {point.setting.rule}", label, found.rate, blind, ceiling)


def _mark(
    point: Point, own: GuaranteeRecord, what: str, attack: str, rate: Interval, prior: float, ceiling: float
) -> Mark:
    low, high = (rate.value if bound is None else bound for bound in (rate.low, rate.high))
    findings = (finding for cell in point.setting.cells for finding in cell.findings)
    audits = [one.value.value for one in findings if one.value and (one.question, one.label) == ("audit", own.source)]
    floor = max(audits, default=None)
    return Mark(
        point.name, own.source, own.epsilon, own.delta, what, attack, rate.value, low, high, prior, ceiling, floor
    )


def _floor(point: Point, confidence: float) -> Floor | None:
    labels = {own.label for cell in point.setting.cells for own in cell.members}
    found: list[tuple[str, int, int, float, float]] = []
    for label in sorted(labels):
        records = infer_membership(point.setting, label)
        members, others = sum(own.members for own in records), sum(own.non_members for own in records)
        for fpr in {fpr for own in records for fpr, _ in own.rates}:
            pooled = [(own, dict(own.rates).get(fpr)) for own in records]
            if all(tpr is not None for _, tpr in pooled):
                hits = sum(round((tpr or 0.0) * own.members) for own, tpr in pooled)
                found.append(
                    (label, members, others, hits, sum(math.floor(fpr * own.non_members) for own, _ in pooled))
                )
    if not found:
        return None
    risk_each = (1 - confidence) / (2 * len(found))
    delta = point.guarantee.delta if point.guarantee else 0.0
    bounds = [(_epsilon_at_least(hits, n, alarms, m, delta, risk_each), label) for label, n, m, hits, alarms in found]
    floor, label = max(bounds)
    stated = f"{point.epsilon:.3g}" if point.guarantee and math.isfinite(point.epsilon) else "none"
    return Floor(point.name, stated, label, floor)


def _epsilon_at_least(hits: float, members: int, alarms: float, others: int, delta: float, risk_each: float) -> float:
    tpr = float(beta.ppf(risk_each, hits, members - hits + 1)) if hits else 0.0
    fpr = float(beta.ppf(1 - risk_each, alarms + 1, others - alarms)) if alarms < others else 1.0
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0
