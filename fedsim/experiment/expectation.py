"""Figures of a record, or of a sweep, beside those that its scenario expects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedsim.core.errors import nearest
from fedsim.core.metric import Metric
from fedsim.record import ATTACKS, ArmRecord, Interval, RunRecord
from fedsim.scenario.expectations import Expected, ExpectedFigure

_SEARCHED = 60.0  # dB; what is above comes from algebra, and its last digits from rounding


class Figure(NamedTuple):
    """A figure of a record with its interval, and where it stands; `of` a metric, or of none.

    `is_drawn_anew` says whether another processor draws other units.
    """

    arm: str
    attack: str
    metric: str
    value: Interval
    of: Metric | None = None
    is_drawn_anew: bool = False

    @property
    def is_told(self) -> bool:
        """Whether no other figure says the same."""
        if self.of is None:
            return True
        return self.of.compared and self.metric in (self.of.name, *list(self.of.statistics)[:1])

    @property
    def tolerance(self) -> float:
        """How far the same run may be away from it on another processor.

        A search ends within about 1 dB of another one; above 60 dB rounding decides, whose order differs by a few bits
        (10 dB are less than two). Of n units that succeed or fail, one may change sides. Of any other figure the second
        digit counts. A model that rounds otherwise draws other texts, and of 100 pairs of draws 95 differ by less than
        the square root of 2 times half the interval.
        """
        between_draws = math.sqrt(2) * _half_width(self.value) if self.is_drawn_anew else 0.0
        return max(self._rounding(), round(between_draws, 4))

    def _rounding(self) -> float:
        value, n = self.value.value, self.value.n
        if self.of is not None and self.of.unit == "dB":
            return 1.0 if value < _SEARCHED else 10.0
        if n and self.of is not None and self.of.counted:
            return round(1 / n, 4)
        return round(0.02 * max(abs(value), 1.0), 4)


def figures(record: RunRecord) -> list[Figure]:
    """Return every figure of a record that may be expected, in the order of its arms."""
    return [
        figure for arm in record.arms for figure in _of_arm(arm, record.declared) if math.isfinite(figure.value.value)
    ]


def hashes(record: RunRecord) -> dict[str, str]:
    """Return the hash of each arm's trained model."""
    return {arm.name: arm.model_hash for arm in record.arms}


def departures(measured: Sequence[Figure], hashes: Mapping[str, str], expected: Expected) -> list[str]:
    """Return one sentence for every expected figure or hash that was not measured; empty when all were."""
    values = {(figure.arm, figure.attack, figure.metric): figure.value.value for figure in measured}
    judged = [_departure(figure, values) for figure in expected.figures]
    judged += [
        None
        if hashes.get(arm) == digest
        else f"{arm}: hash of the model is {hashes.get(arm, 'absent')}, expected {digest}"
        for arm, digest in expected.model_hash.items()
    ]
    return [sentence for sentence in judged if sentence is not None]


def expectation(measured: Sequence[Figure]) -> dict[str, Any]:
    """Return the table `expected` of what was measured, with a tolerance for another processor.

    Figures that say the same as another one are left out: other means of images and of words, and the test loss.
    """
    return {
        "figures": [
            {
                "arm": figure.arm,
                **({"attack": figure.attack} if figure.attack else {}),
                "metric": figure.metric,
                **_in_digits(figure.value),
                "tolerance": figure.tolerance,
            }
            for figure in measured
            if figure.is_told
        ]
    }


def _departure(expected: ExpectedFigure, values: Mapping[tuple[str, str, str], float]) -> str | None:
    key = (expected.arm, expected.attack, expected.metric)
    who = ", ".join(filter(None, key))
    if key not in values:
        hint = nearest(who, [", ".join(filter(None, other)) for other in values])
        return f"{who}: there is no such figure.{hint}"
    if abs(values[key] - expected.value) <= expected.tolerance:
        return None
    return f"{who} is {values[key]:.4g}, expected {expected.value:.4g} within {expected.tolerance:.4g}"


def _in_digits(value: Interval) -> dict[str, float]:
    """Return a value and the ends of its interval, as far as there are any, with four digits."""
    ends = {"value": value.value, "low": value.low, "high": value.high}
    return {name: float(f"{end:.4g}") for name, end in ends.items() if end is not None and math.isfinite(end)}


def _of_arm(arm: ArmRecord, declared: Mapping[str, Metric]) -> Iterator[Figure]:
    last = next((entry for entry in reversed(arm.rounds) if entry.tested), None)
    for name, value in last.tested.items() if last is not None else ():
        yield Figure(arm.name, "", name, _alone(value), declared[name])
    sources = {**declared, **{column: metric for metric in declared.values() for column in metric.statistics}}
    for finding in arm.findings:
        is_drawn_anew = finding.question != ATTACKS  # attacks read the same updates again
        for name, value in finding.figures.items():
            if value is not None:
                yield Figure(arm.name, finding.label, name, value, sources[name], is_drawn_anew)
    for guarantee in arm.guarantees:
        yield Figure(arm.name, guarantee.source, "epsilon", _alone(guarantee.epsilon))


def _alone(value: float) -> Interval:
    return Interval(value=value, low=None, high=None, n=0)


def _half_width(value: Interval) -> float:
    """Return half the width of an interval; 0 where there is none."""
    return 0.0 if value.low is None or value.high is None else (value.high - value.low) / 2
