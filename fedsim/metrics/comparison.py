"""Estimates over several runs, and comparisons of two settings on the same victims.

Examples of a victim are dependent, and victims of a seed share its weights. So resamples draw seeds, and victims within
each seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fedsim.metrics.statistics import wilson
from fedsim.record import Interval

Item = TypeVar("Item")
NestedValues = Sequence[Sequence[float]]
"""One sequence per seed, with a value per victim: the mean over its images."""

_LEAST_FOR_BOOTSTRAP = 3
_LARGEST_EXACT = 12


def nested_mean(
    values: NestedValues, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the mean over all victims with a percentile interval of the two-stage bootstrap; n counts victims.

    With one seed only victims are resampled. Below 3 victims there are no bounds.

    Raises:
        ValueError: no victim is given.
    """
    groups = [np.asarray(group, dtype=float) for group in values if len(group)]
    if not groups:
        raise ValueError("an estimate needs at least one victim")
    pooled = np.concatenate(groups)
    if len(pooled) < _LEAST_FOR_BOOTSTRAP:
        return Interval(value=float(pooled.mean()), low=None, high=None, n=len(pooled))
    sizes = np.array([len(group) for group in groups])
    table = np.zeros((len(groups), sizes.max()))
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    seeds = generator.integers(len(groups), size=(resamples, len(groups)))
    picks = (generator.random((*seeds.shape, sizes.max())) * sizes[seeds][..., None]).astype(int)
    is_used = np.arange(sizes.max()) < sizes[seeds][..., None]
    sums = (table[seeds[..., None], picks] * is_used).sum((1, 2))
    low, high = np.quantile(sums / is_used.sum((1, 2)), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=float(pooled.mean()), low=float(low), high=float(high), n=len(pooled))


def nested_rate(
    shares: NestedValues, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return a success rate over all victims, with the wider of Wilson's interval and the two-stage bootstrap.

    Wilson's interval is meaningful at 0 and 1, where a bootstrap has zero width; the bootstrap includes the variance
    between seeds.
    """
    interval = nested_mean(shares, generator, confidence, resamples)
    exact = wilson(min(max(interval.value, 0.0), 1.0) * interval.n, interval.n, confidence)
    lows = [low for low in (interval.low, exact.low) if low is not None]
    highs = [high for high in (interval.high, exact.high) if high is not None]
    return Interval(value=interval.value, low=min(lows), high=max(highs), n=interval.n)


def mean_over_seeds(
    values: Sequence[float], confidence: float = 0.95, limits: tuple[float | None, float | None] = (None, None)
) -> Interval:
    """Return the mean of a value per seed with Student's interval; a single seed has no bounds.

    The interval is clipped to `limits`, the smallest and largest possible value; None for no limit.

    Raises:
        ValueError: no value is given.
    """
    if not values:
        raise ValueError("an estimate needs at least one seed")
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Interval(value=mean, low=None, high=None, n=1)
    from scipy.stats import t as student  # noqa: PLC0415 - a list of metrics need not wait for SciPy

    half = float(student.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(values, ddof=1)) / n**0.5
    least, highest = limits
    low = mean - half if least is None else max(least, mean - half)
    return Interval(value=mean, low=low, high=mean + half if highest is None else min(highest, mean + half), n=n)


def sign_flip_p(differences: Sequence[float], generator: np.random.Generator, flips: int = 9999) -> float:
    """Return the two-sided p-value of the paired permutation test that the differences have mean 0.

    Under the null hypothesis the sign of each difference is random. Exact up to 12 nonzero differences.
    """
    nonzero = np.asarray([d for d in differences if d != 0.0], dtype=float)
    if not len(nonzero):
        return 1.0
    seen = abs(nonzero.sum()) * (1.0 - 1e-12)
    if len(nonzero) <= _LARGEST_EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(nonzero))))
        return float((np.abs(signs @ nonzero) >= seen).mean())
    signs = generator.integers(2, size=(flips, len(nonzero))) * 2.0 - 1.0
    return float(((np.abs(signs @ nonzero) >= seen).sum() + 1) / (flips + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction, in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def frontier(items: Sequence[Item], place: Callable[[Item], tuple[float, float]]) -> list[Item]:
    """Return the Pareto-optimal items, in descending order of gain; their risks decrease.

    Args:
        items: candidates.
        place: gain and risk of an item; more gain and less risk are better.
    """

    def by_gain(item: Item) -> tuple[float, float]:
        gain, risk = place(item)
        return -gain, risk

    best: list[Item] = []
    for item in sorted(items, key=by_gain):
        if not best or place(item)[1] < place(best[-1])[1]:
            best.append(item)
    return best


Victims = Mapping[tuple[int, int, int], float]
"""Maps (seed, round, client) to the share of its recovered images."""


def pair(treated: Victims, control: Victims) -> list[list[float]]:
    """Return the differences, treated minus control, of the common victims, by seed."""
    seeds: dict[int, list[float]] = {}
    for key in sorted(treated.keys() & control.keys()):
        seeds.setdefault(key[0], []).append(treated[key] - control[key])
    return list(seeds.values())
