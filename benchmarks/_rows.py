"""One row of a benchmark, and how rows are printed."""

from __future__ import annotations

import argparse
import json
import operator
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fedsim.metrics.statistics import mean_interval
from fedsim.record import Interval

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class Row(NamedTuple):
    """A measured figure beside the figure asked for.

    `minimum`, `median` and `maximum` are over n units; `must` is the figure asked for, as text, and `holds` says
    whether it was reached.
    """

    name: str
    setting: str
    value: float
    unit: str
    minimum: float
    median: float
    maximum: float
    n: int
    must: str
    holds: bool


def in_words(interval: Interval, digits: int) -> str:
    """Return a value with its interval, "0.52 [0.40, 0.63]"; the value alone where it has none."""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def mean_in_words(values: Sequence[float], digits: int) -> str:
    """Return the mean of values with its bootstrap interval over them, in words."""
    return in_words(mean_interval([[value] for value in values], np.random.default_rng(0)), digits)


def measured(name: str, setting: str, values: Sequence[float], unit: str, must: str, value: float | None = None) -> Row:
    """Return the row of a figure that was measured several times.

    Args:
        name: what was measured.
        setting: under which conditions.
        values: one a unit, at least one.
        unit: of the values.
        must: the figure asked for: a comparison, a space and a number, for example ``>= 8``. Empty for none.
        value: the figure that is held to it; the median of the values when absent.
    """
    median = statistics.median(values)
    value = median if value is None else value
    held = holds(value, must) if must else True
    return Row(name, setting, value, unit, min(values), median, max(values), len(values), must or "reported", held)


def averaged(name: str, setting: str, values: Sequence[float], unit: str, must: str) -> Row:
    """Return the row of a mean, as `measured`; its setting says the 95 % interval by bootstrap over the units."""
    interval = _mean(values)
    bounds = (
        "" if interval.low is None or interval.high is None else f", mean [{interval.low:.3g}, {interval.high:.3g}]"
    )
    return measured(name, setting + bounds, values, unit, must, interval.value)


def with_interval(name: str, setting: str, values: Sequence[float], unit: str) -> Row:
    """Return the row of a mean; least and greatest are the ends of its 95 % interval by bootstrap over the units."""
    return of_interval(name, setting, _mean(values), unit)


def of_interval(name: str, setting: str, interval: Interval, unit: str, scale: float = 1.0) -> Row:
    """Return the row of a figure with an interval, times `scale`; least and greatest are the interval's ends."""
    value = scale * interval.value
    low, high = (value if bound is None else scale * bound for bound in (interval.low, interval.high))
    return Row(name, setting, value, unit, low, value, high, interval.n, "reported", True)


def half_width(values: Sequence[float]) -> float:
    """Return half the width of Student's 95 % interval of the mean of two values or more."""
    from scipy.stats import t  # noqa: PLC0415 - takes a while to import

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def told_apart(name: str, setting: str, members: Sequence[float], others: Sequence[float]) -> Row:
    """Return the row of the area under the ROC curve of a score that is higher for members.

    Least and greatest are the ends of its 95 % interval, by bootstrap over members and others; n counts both.
    """
    from scipy.stats import bootstrap  # noqa: PLC0415 - takes a while to import

    samples, source = (members, others), np.random.default_rng(0)
    bounds = bootstrap(samples, _area, vectorized=False, method="percentile", n_resamples=2000, rng=source)
    low, high = bounds.confidence_interval
    value, count = _area(np.array(members), np.array(others)), len(members) + len(others)
    return Row(name, setting, value, "area", low, value, high, count, "reported", True)


def _area(members: np.ndarray, others: np.ndarray) -> float:
    over, under = np.asarray(members)[:, None], np.asarray(others)
    return float((over > under).mean() + (over == under).mean() / 2)


def _mean(values: Sequence[float]) -> Interval:
    return mean_interval([[value] for value in values], np.random.default_rng(0))


def holds(value: float, must: str) -> bool:
    """Return whether a value stands in the relation that `must` asks for: a comparison, a space and a number."""
    comparison, bound = must.split()
    return _COMPARISONS[comparison](value, float(bound))


def main(measure: Callable[[bool], Sequence[Row]], description: str) -> None:
    """Run a benchmark's command line, with one thread of torch."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--full", action="store_true", help="the long version")
    chosen = parser.parse_args()
    rows = measure(chosen.full)
    print(as_json(rows) if chosen.json else as_table(rows))


def as_they_come(rows: Iterable[Row]) -> list[Row]:
    """Return rows, each told on standard error as soon as it is measured."""
    seen: list[Row] = []
    for row in rows:
        print(as_line(row), file=sys.stderr, flush=True)
        seen.append(row)
    return seen


def as_json(rows: Sequence[Row]) -> str:
    """Return a JSON list with the keys that every benchmark shares."""
    short = {"minimum": "min", "maximum": "max"}
    return json.dumps([{short.get(key, key): value for key, value in row._asdict().items()} for row in rows], indent=1)


def as_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    lines = [
        "| what | setting | value | min | median | max | n | asked for | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(as_line, rows)])


def as_line(row: Row) -> str:
    """Return one line of the table."""
    figures = " | ".join(f"{x:.4g}" for x in (row.minimum, row.median, row.maximum))
    cells = (row.name, row.setting, f"{row.value:.4g} {row.unit}", figures, row.n, row.must)
    return f"| {' | '.join(map(str, cells))} | {'yes' if row.holds else 'no'} |"
