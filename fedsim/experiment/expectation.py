"""Expected figures of a scenario: the file beside it, and its comparison with a record or a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.metric import Metric
from fedsim.core.settings import Config
from fedsim.record import ATTACKS, ArmRecord, Interval, RunRecord
from fedsim.record.atomic_files import io_advice, write_atomic

_SEARCHED = 60.0  # dB; higher values come from closed-form attacks, and their last digits from rounding


class ExpectedFigure(Config):
    """Expected metric value of an arm, with its tolerance."""

    arm: str = Field(default="all", description="the arm's name in the record; 'all' without arms")
    attack: str = Field(default="", description="label of the attack, or source of a guarantee; empty: of the arm")
    metric: str = Field(description="name of the metric, for example psnr_median")
    value: float
    low: float | None = Field(default=None, description="lower end of its 95 % interval, for pages")
    high: float | None = Field(default=None, description="upper end")
    tolerance: float = Field(default=0.0, ge=0, description="largest difference that is no departure")


class Measurement(Config):
    """Run of the unchanged scenario that gave the expected figures."""

    date: str = Field(description="UTC, ISO 8601, of the run's start")
    commit: str = Field(default="unknown", description="commit of fedsim's checkout")
    processor: str = "unknown"


class Expected(Config):
    """Metric values and hashes that a run of the unchanged scenario should reproduce."""

    measured: Measurement | None = Field(default=None, description="the run that gave the figures, for pages")
    figures: tuple[ExpectedFigure, ...] = ()
    model_hash: dict[str, str] = Field(
        default_factory=dict, description="arm to the hash of its trained model; bits depend on the processor"
    )

    @property
    def count(self) -> int:
        """Number of compared values."""
        return len(self.figures) + len(self.model_hash)


def expected_file(scenario: Path) -> Path:
    """Return the path of a scenario's expected figures: ``expected/NAME.json`` in the scenario's folder."""
    return scenario.parent / "expected" / f"{scenario.stem}.json"


def read_expected(scenario: Path) -> Expected:
    """Return the expected figures of a scenario file; none without a file of figures.

    Raises:
        FedsimError: the file of figures is unreadable.
    """
    file = expected_file(scenario)
    try:
        return Expected.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Expected()
    except (OSError, ValidationError) as error:
        raise FedsimError(f"{file}: expected the figures that `fedsim expect` writes: {error}") from error


def write_expected(expected: Expected, scenario: Path) -> Path:
    """Write the expected figures of a scenario, a line per figure, and return the file.

    Raises:
        FedsimError: the file cannot be written.
    """
    table = expected.model_dump(mode="json", exclude_defaults=True)
    lines = [f"  {json.dumps(figure, ensure_ascii=False)}" for figure in table.pop("figures", [])]
    head = json.dumps(table, ensure_ascii=False)[1:-1]
    file = expected_file(scenario)
    text = "\n".join([f'{{{head}{", " if head else ""}"figures": [', ",\n".join(lines), "]}", ""])
    with io_advice(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, text.encode())
    return file


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


def expectation(measured: Sequence[Figure], run: Measurement) -> Expected:
    """Return a run's measured values as expected values, with tolerances for another processor.

    Redundant values are omitted: further means of images and words, and the test loss.
    """
    return Expected(
        measured=run,
        figures=tuple(
            ExpectedFigure(
                arm=figure.arm,
                attack=figure.attack,
                metric=figure.metric,
                **_round_interval(figure.value),
                tolerance=figure.tolerance,
            )
            for figure in measured
            if figure.is_told
        ),
    )


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
