"""Figures of a record beside those that its scenario expects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from fedsim.core.errors import nearest
from fedsim.record import ArmRecord, Interval, RunRecord
from fedsim.scenario.expectations import Expected, ExpectedFigure

_SEARCHED = 60.0  # dB; what is above comes from algebra, and its last digits from rounding
_COUNTED = ("success", "label_accuracy", "minor_found", "secrets", "extracted", "found")
_REDUNDANT = ("psnr_mean", "mse_mean", "ssim_mean", "ssim_trained", "rouge_1", "rouge_2", "test_loss")
_TESTED = ("test_loss", "test_accuracy", "test_span_f1", "test_spearman")


class Figure(NamedTuple):
    """A figure of a record, the number of units behind it, and where it stands."""

    arm: str
    attack: str
    metric: str
    value: float
    n: int

    @property
    def tolerance(self) -> float:
        """How far the same run may be away from it on another processor.

        A search ends within about 1 dB of another one; above 60 dB rounding decides, whose order differs by a few bits
        (10 dB are less than two). Of n units that succeed or fail, one may change sides. Of any other figure the second
        digit counts.
        """
        if "psnr" in self.metric:
            return 1.0 if self.value < _SEARCHED else 10.0
        if self.n and self.metric.rpartition(".")[2] in _COUNTED:
            return round(1 / self.n, 4)
        return round(0.02 * max(abs(self.value), 1.0), 4)


def figures(record: RunRecord) -> list[Figure]:
    """Return every figure of a record that may be expected, in the order of its arms."""
    return [figure for arm in record.arms for figure in _of_arm(arm) if math.isfinite(figure.value)]


def departures(record: RunRecord, expected: Expected) -> list[str]:
    """Return one sentence for every expected figure or hash that the record departs from; empty when it keeps all."""
    found = {(own.arm, own.attack, own.metric): own.value for own in figures(record)}
    hashes = {arm.name: arm.model_hash for arm in record.arms}
    judged = [_departure(own, found) for own in expected.figures]
    judged += [
        None if hashes.get(arm) == own else f"{arm}: hash of the model is {hashes.get(arm, 'absent')}, expected {own}"
        for arm, own in expected.model_hash.items()
    ]
    return [sentence for sentence in judged if sentence is not None]


def expectation(record: RunRecord) -> dict[str, Any]:
    """Return the table `expected` of a record, with a tolerance for another processor.

    Figures that say the same as another one are left out: other means of images and of words, and the test loss.
    """
    return {
        "figures": [
            {
                "arm": own.arm,
                **({"attack": own.attack} if own.attack else {}),
                "metric": own.metric,
                "value": float(f"{own.value:.4g}"),
                "tolerance": own.tolerance,
            }
            for own in figures(record)
            if own.metric.rpartition(".")[2] not in _REDUNDANT
        ]
    }


def _departure(expected: ExpectedFigure, found: Mapping[tuple[str, str, str], float]) -> str | None:
    key = (expected.arm, expected.attack, expected.metric)
    who = ", ".join(filter(None, key))
    if key not in found:
        hint = nearest(who, [", ".join(filter(None, other)) for other in found])
        return f"{who}: the record has no such figure.{hint}"
    if abs(found[key] - expected.value) <= expected.tolerance:
        return None
    return f"{who} is {found[key]:.4g}, expected {expected.value:.4g} within {expected.tolerance:.4g}"


def _of_arm(arm: ArmRecord) -> Iterator[Figure]:
    last = next((own for own in reversed(arm.rounds) if own.utility is not None or own.test_loss is not None), None)
    for name in _TESTED if last is not None else ():
        value = getattr(last, name)
        if value is not None:
            yield Figure(arm.name, "", name, value, 0)
    for attack in arm.attacks:
        yield from (Figure(arm.name, attack.label, *own) for own in _intervals(attack.summary))
    for member in arm.membership:
        yield from (Figure(arm.name, member.label, *own) for own in _intervals(member.summary))
    for own in arm.guarantees:
        yield Figure(arm.name, own.source, "epsilon", own.epsilon, 0)
    for own in arm.exposure.summaries if arm.exposure else ():
        planted = f"{own.kind} x {own.repetitions}"
        yield from (Figure(arm.name, planted, *found) for found in _intervals(own))


def _intervals(summary: BaseModel | None, prefix: str = "") -> Iterator[tuple[str, float, int]]:
    """Yield (metric, value, n) of every interval of a summary, those of its parts too."""
    for name, value in summary or ():
        if isinstance(value, Interval):
            yield f"{prefix}{name}", value.value, value.n
        elif isinstance(value, BaseModel):
            yield from _intervals(value, f"{name}.")
