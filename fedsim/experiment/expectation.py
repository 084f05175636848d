"""Comparison of the metric values of a record or a sweep with the scenario's expected values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedsim.core.errors import did_you_mean
from fedsim.core.metric import Metric
from fedsim.record import ATTACKS, ArmRecord, Interval, RunRecord
from fedsim.scenario.expectations import Expected, ExpectedFigure, Measurement

_SEARCHED = 60.0  # dB; higher values come from closed-form attacks, and their last digits from rounding


class Figure(NamedTuple):
    """A metric value of a record with its interval and its location.

    Attributes:
        arm: name of the arm.
        attack: label of the finding, or name of the private mechanism; empty for test metrics.
        metric: name of the metric or statistic.
        value: value with its interval.
        of: declaration of the metric; None for epsilon.
        is_drawn_anew: whether another processor samples other units.
    """

    arm: str
    attack: str
    metric: str
    value: Interval
    of: Metric | None = None
    is_drawn_anew: bool = False

    @property
    def is_told(self) -> bool:
        """Whether the value is not redundant: no other value contains the same information."""
        if self.of is None:
            return True
        return self.of.compared and self.metric in (self.of.name, *list(self.of.statistics)[:1])

    @property
    def tolerance(self) -> float:
        """Tolerance for the same run on another processor.

        Searches end within about 1 dB of each other; above 60 dB rounding decides, which depends on the processor (10
        dB are less than two bits). Of n units that succeed or fail, a single unit may change. Other values are compared
        to two digits. If rounding changes sampled texts, the tolerance is sqrt(2) times half the interval: 95 of 100
        pairs of samples differ by less.
        """
        between_draws = math.sqrt(2) * _half_width(self.value) if self.is_drawn_anew else 0.0
        return max(self._rounding(), round(between_draws, 4))

    def _rounding(self) -> float:
        value, n = self.value.value, self.value.n
        if self.of is not None and self.of.unit == "dB":
            return 1.0 if value < _SEARCHED else 10.0
        if n and self.of is not None and self.of.is_success_count:
            return round(1 / n, 4)
        return round(0.02 * max(abs(value), 1.0), 4)


def figures(record: RunRecord) -> list[Figure]:
    """Return every metric value of a record that may be expected, in the order of its arms."""
    return [
        figure
        for arm in record.arms
        for figure in _arm_figures(arm, record.metrics_by_name)
        if math.isfinite(figure.value.value)
    ]


def hashes(record: RunRecord) -> dict[str, str]:
    """Return the hash of each arm's trained model."""
    return {arm.name: arm.model_hash for arm in record.arms}


def measurement(record: RunRecord) -> Measurement:
    """Return the date, commit and processor of a run."""
    at = record.environment
    return Measurement(date=record.started[:10], commit=at.short_commit, processor=at.processor)


def departures(measured: Sequence[Figure], hashes: Mapping[str, str], expected: Expected) -> list[str]:
    """Return a sentence for every expected value or hash that was not met; empty if all were met."""
    values = {(figure.arm, figure.attack, figure.metric): figure.value.value for figure in measured}
    judged = [_departure(figure, values) for figure in expected.figures]
    judged += [
        None
        if hashes.get(arm) == digest
        else f"{arm}: hash of the model is {hashes.get(arm, 'absent')}, expected {digest}"
        for arm, digest in expected.model_hash.items()
    ]
    return [sentence for sentence in judged if sentence is not None]


def expectation(measured: Sequence[Figure], run: Measurement) -> dict[str, Any]:
    """Return the table `expected` of a run's measured values, with tolerances for another processor.

    Redundant values are omitted: further means of images and words, and the test loss.
    """
    return {
        "measured": run.model_dump(),
        "figures": [
            {
                "arm": figure.arm,
                **({"attack": figure.attack} if figure.attack else {}),
                "metric": figure.metric,
                **_round_interval(figure.value),
                "tolerance": figure.tolerance,
            }
            for figure in measured
            if figure.is_told
        ],
    }


def _departure(expected: ExpectedFigure, values: Mapping[tuple[str, str, str], float]) -> str | None:
    key = (expected.arm, expected.attack, expected.metric)
    subject = ", ".join(filter(None, key))
    if key not in values:
        hint = did_you_mean(subject, [", ".join(filter(None, value)) for value in values])
        return f"{subject}: no such value in the results.{hint}"
    if abs(values[key] - expected.value) <= expected.tolerance:
        return None
    return f"{subject} is {values[key]:.4g}, expected {expected.value:.4g} within {expected.tolerance:.4g}"


def _round_interval(value: Interval) -> dict[str, float]:
    """Return a value and the finite ends of its interval, with four digits."""
    ends = {"value": value.value, "low": value.low, "high": value.high}
    return {name: float(f"{end:.4g}") for name, end in ends.items() if end is not None and math.isfinite(end)}


def _arm_figures(arm: ArmRecord, declared: Mapping[str, Metric]) -> Iterator[Figure]:
    last = next((entry for entry in reversed(arm.rounds) if entry.test_metrics), None)
    for name, value in last.test_metrics.items() if last is not None else ():
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
    """Return half the width of an interval; 0 without an interval."""
    return 0.0 if value.low is None or value.high is None else (value.high - value.low) / 2
