"""One row of an experiment: a figure, its interval, and the bound that it must keep."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsim.metrics.statistics import mean_interval, median_interval, wilson
from fedsim.record import Interval

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_FEWEST_RATIOS = 3
Values = Sequence[float] | Sequence[Sequence[float]]


class Row(NamedTuple):
    """A measured figure.

    Attributes:
        name: what was measured.
        setting: under which conditions; with the name it tells rows of one cell apart.
        value: the figure.
        unit: of the figure.
        low: least value of its 95 % interval; None where it has none.
        high: greatest value.
        n: independent units that were measured.
        must: the bound: a comparison, a space and a number, for example ``>= 8``. Empty for none.
        note: what else is to be said of it, in words.
    """

    name: str
    setting: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    n: int = 1
    must: str = ""
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bound."""
        return not self.must or holds(self.value, self.must)


def holds(value: float, must: str) -> bool:
    """Return whether a value keeps a bound: a comparison, a space and a number."""
    comparison, bound = must.split()
    return _COMPARISONS[comparison](value, float(bound))


def median_row(name: str, setting: str, values: Values, unit: str, must: str = "") -> Row:
    """Return the row of a median, with its interval by bootstrap.

    Args:
        name: what was measured.
        setting: under which conditions.
        values: one an independent unit, at least one; or those of its images, say, which share its fate.
        unit: of the values.
        must: the bound of the median; empty for none.
    """
    return interval_row(name, setting, median_interval(_group_by_unit(values), np.random.default_rng(0)), unit, must)


def mean_row(name: str, setting: str, values: Values, unit: str, must: str = "") -> Row:
    """Return the row of a mean, as `median_row` does of a median."""
    return interval_row(name, setting, mean_interval(_group_by_unit(values), np.random.default_rng(0)), unit, must)


def share(name: str, setting: str, flags: Sequence[float], must: str = "", *, note: str = "") -> Row:
    """Return the row of a share, with Wilson's interval; each unit counts by a number in [0, 1]."""
    return interval_row(name, setting, wilson(min(sum(flags), len(flags)), len(flags)), "share", must, note=note)


def least(name: str, setting: str, values: Sequence[float], unit: str, must: str = "") -> Row:
    """Return the row of the smallest value, which has no interval."""
    return Row(name, setting, min(values), unit, n=len(values), must=must)


def ratio(name: str, setting: str, over: Sequence[float], under: Sequence[float], must: str = "") -> Row:
    """Return the ratio of the medians of passes, with its interval by bootstrap over the passes of both."""
    value = statistics.median(over) / statistics.median(under)
    if min(len(over), len(under)) < _FEWEST_RATIOS:
        return Row(name, setting, value, "times", n=len(over), must=must)
    source = np.random.default_rng(0)
    above, below = (np.median(source.choice(np.asarray(seconds), (2000, len(seconds))), 1) for seconds in (over, under))
    low, high = np.quantile(above / below, (0.025, 0.975))
    return Row(name, setting, value, "times", float(low), float(high), len(over), must)


def interval_row(
    name: str, setting: str, interval: Interval, unit: str, must: str = "", *, scale: float = 1.0, note: str = ""
) -> Row:
    """Return the row of a figure with an interval, both times `scale`."""
    low, high = (None if bound is None else scale * bound for bound in (interval.low, interval.high))
    return Row(name, setting, scale * interval.value, unit, low, high, interval.n, must, note)


def _group_by_unit(values: Values) -> list[Sequence[float]]:
    return [value if isinstance(value, Sequence) else [value] for value in values]
