"""Attack success in a sweep compared with the upper bound from epsilon and the lower bound on epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fedsim.metrics.membership import clopper_pearson
from fedsim.record import Interval
from fedsim.report.ceilings import BoundComparison, GuaranteedArm
from fedsim.report.document import Table, TableRow, number
from fedsim.report.sweep.cells import FindingCurve
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.sweep.points import FEW_FALSE_ALARMS, Point, attackers, risk


class EpsilonFloor(NamedTuple):
    """Lower bound on a setting's epsilon from its membership attacks, at 95% confidence."""

    setting: str
    stated_epsilon: str
    attack: str
    floor: float


def marks(sweep: SweepRecords, points: Sequence[Point], blind: Mapping[str, float]) -> list[BoundComparison]:
    """Return every attack on a setting of finite epsilon, over all seeds, with its ceiling.

    `blind` maps `SweepSetting.data` to the recovered share of a guess without an update.
    """
    return [
        mark
        for point in points
        if point.guarantee and math.isfinite(point.epsilon)
        for guaranteed in [GuaranteedArm(point.name, point.setting.findings, point.guarantee)]
        for mark in (
            *_memberships(guaranteed, point),
            *_reconstructions(guaranteed, sweep, point, blind.get(point.setting.data)),
        )
    ]


def floors(points: Sequence[Point], confidence: float = 0.95) -> list[EpsilonFloor]:
    """Return the largest lower bound on epsilon of every setting with membership attacks.

    At a threshold that accuses k of n members and j of m non-members, epsilon is at least log((TPR - delta) / FPR),
    with
    Clopper-Pearson bounds on both rates; the error probability is divided among all thresholds and attacks of a
    setting.
    """
    return [floor for point in points if (floor := _floor(point, confidence))]


def marks_table(marks: Sequence[BoundComparison]) -> Table:
    """Return a table of attack success with its chance level and its ceiling."""
    headings = ["setting", "what", "attack", *map(number, ("epsilon", "seeing nothing", "reached", "ceiling"))]
    rows = [
        TableRow.of(
            m.arm, m.quantity, m.attack, f"{m.epsilon:.3g}", *map(_odds, (m.prior, m.measured_value, m.ceiling))
        )
        for m in marks
    ]
    return Table.of("Epsilon against attacks", headings, rows, is_sortable=False)


def floors_table(floors: Sequence[EpsilonFloor]) -> Table:
    """Return a table of lower bounds on epsilon with the stated epsilon."""
    headings = ["setting", "attack", *map(number, ("epsilon is at least", "stated"))]
    rows = [TableRow.of(floor.setting, floor.attack, f"{floor.floor:.2f}", floor.stated_epsilon) for floor in floors]
    return Table.of("Lower bounds on epsilon", headings, rows, is_sortable=False)


def _odds(probability: float) -> str:
    """Return a probability as odds: ``1 in 20``."""
    return "never" if probability <= 0 else f"1 in {max(1.0, 1 / probability):,.3g}"


def _memberships(guaranteed: GuaranteedArm, point: Point) -> Iterator[BoundComparison]:
    if point.membership:
        yield guaranteed.membership(point.membership.attack, point.membership.rate, FEW_FALSE_ALARMS)


def _reconstructions(
    guaranteed: GuaranteedArm, sweep: SweepRecords, point: Point, blind: float | None
) -> Iterator[BoundComparison]:
    if blind is None or not guaranteed.guarantee.holds_against_server:
        return
    for label in attackers(point.setting):
        if success := risk(point.setting, label, sweep.judge):
            yield guaranteed.reconstruction(label, point.setting.rule, success.rate, blind)


def _floor(point: Point, confidence: float) -> EpsilonFloor | None:
    labels = sorted({curve.finding.label for cell in point.setting.cells for curve in cell.curves})
    counts = [(label, *accused) for label in labels for accused in _accusation_counts(point.setting.curves(label))]
    if not counts:
        return None
    level = 1 - (1 - confidence) / len(counts)
    delta = point.guarantee.delta if point.guarantee else 0.0
    floor, label = max(
        (_epsilon_at_least(clopper_pearson(*members, level), clopper_pearson(*non_members, level), delta), label)
        for label, members, non_members in counts
    )
    stated = f"{point.epsilon:.3g}" if math.isfinite(point.epsilon) else "none"
    return EpsilonFloor(point.name, stated, label, floor)


def _accusation_counts(curves: Sequence[FindingCurve]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield (accused, all) of members and of non-members, over all seeds, at each threshold common to all seeds."""
    for fpr in set.intersection(*(set(curve.rates) for curve in curves)):
        members = sum(round(curve.rates[fpr] * curve.members) for curve in curves), sum(c.members for c in curves)
        false_alarms = sum(math.floor(fpr * curve.non_members) for curve in curves), sum(c.non_members for c in curves)
        yield members, false_alarms


def _epsilon_at_least(members: Interval, false_alarms: Interval, delta: float) -> float:
    tpr, fpr = members.low or 0.0, false_alarms.high or 1.0
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0
