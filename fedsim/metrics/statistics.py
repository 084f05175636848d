"""Estimates with confidence intervals.

The independent unit is the victim, an attacked update: its images are dependent, so they count as one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from fedsim.core.metric import Statistic
from fedsim.core.registry import metric
from fedsim.core.seeding import derive
from fedsim.metrics.success import Rule
from fedsim.record import Interval, VictimRecord

Clusters = Sequence[Sequence[float]]
_Statistic = Callable[..., np.ndarray]

_STATISTICS: dict[Statistic, _Statistic] = {"mean": np.nanmean, "median": np.nanmedian}

_LEAST_FOR_BOOTSTRAP = 3


class Summary(NamedTuple):
    """Results of an attack over all victims. Resampling units are victims, not examples.

    `metrics` contains summary statistics of examples and updates, by the names that metrics declare.
    """

    success: Interval
    metrics: dict[str, Interval]


def mean_interval(
    values: Clusters, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the mean over all values with a percentile bootstrap interval that resamples victims.

    Args:
        values: a non-empty sequence per victim, with a value per image.
        generator: source of the resamples.
        confidence: coverage of the interval, in (0, 1).
        resamples: number of bootstrap resamples.

    Returns:
        The interval, with n the number of victims; without bounds if n is below 3.

    Raises:
        ValueError: there is no victim, or a victim without values.
    """
    return _bootstrap(np.nanmean, values, generator, confidence, resamples)


def median_interval(
    values: Clusters, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the median over all values; otherwise as `mean_interval`."""
    return _bootstrap(np.nanmedian, values, generator, confidence, resamples)


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Return a success rate with its Wilson score interval, which is meaningful at 0, at n and for few victims.

    Args:
        successes: in [0, n]; a victim with several images may count by its share of successes. The interval is then as
            wide as if all its images were equal, so it is conservative.
        n: number of victims, at least 1.
        confidence: coverage of the interval, in (0, 1).

    Raises:
        ValueError: n is 0 or the successes are out of range.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a rate needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    rate = successes / n
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (rate * (1 - rate) / n + z**2 / (4 * n**2)) ** 0.5
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(value=rate, low=min(max(low, 0.0), rate), high=max(min(high, 1.0), rate), n=n)


@metric(
    "success",
    title="success rate",
    summary="share of examples that count as recovered, each attacked update by its own share",
    over="finding",
    form="percent",
    digits=0,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def success(shares: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean share with Wilson's interval for the number of updates.

    Args:
        shares: share of successful examples of each attacked update, in [0, 1]; at least one.
        confidence: coverage of the interval, in (0, 1).
    """
    return wilson(min(sum(shares), len(shares)), len(shares), confidence)


def summarise(
    victims: Sequence[VictimRecord], rule: Rule, seed: int, *, confidence: float = 0.95, resamples: int = 2000
) -> Summary | None:
    """Summarise one attack over its victims; None if it returned no guess for any victim.

    The resampling unit is the victim (a cluster bootstrap if it has several examples). A victim on which the attack
    failed is excluded from all statistics, since a failure is no evidence; n is the number of remaining victims. All
    statistics use the same resamples of the victims.

    Args:
        victims: attacked victims.
        rule: success rule, and declarations of metrics.
        seed: the scenario's seed.
        confidence: coverage of each interval, in (0, 1).
        resamples: number of bootstrap resamples.
    """
    scored = [victim for victim in victims if victim.failure is None and victim.scores]
    if not scored:
        return None
    shares = [sum(map(rule.has_succeeded, victim.scores)) / len(victim.scores) for victim in scored]

    def interval(statistic: Statistic, values: Clusters) -> Interval:
        if statistic == "share":
            return _share(values, confidence)
        source = np.random.default_rng(derive(seed, "bootstrap"))
        return _bootstrap(_STATISTICS[statistic], values, source, confidence, resamples)

    return Summary(
        success=success(shares, confidence),
        metrics={
            column: interval(statistic, values)
            for name, values in _group_by_metric(scored).items()
            for column, statistic in rule.metrics_by_name[name].statistics.items()
        },
    )


def _group_by_metric(victims: Sequence[VictimRecord]) -> dict[str, list[list[float]]]:
    """Return the values of each metric, a list per victim that has any; metrics of examples first."""
    names = dict.fromkeys(name for victim in victims for item in victim.scores for name in item.values)
    values = {
        name: [[item.values[name] for item in victim.scores if name in item.values] for victim in victims]
        for name in names
    }
    for name in dict.fromkeys(name for victim in victims for name in victim.values):
        values[name] = [[victim.values[name]] for victim in victims if name in victim.values]
    return {name: [cluster for cluster in clusters if cluster] for name, clusters in values.items()}


def _share(values: Clusters, confidence: float) -> Interval:
    """Return the share of set flags, averaged over victims."""
    return success([sum(cluster) / len(cluster) for cluster in values], confidence)


def _bootstrap(
    statistic: _Statistic, values: Clusters, generator: np.random.Generator, confidence: float, resamples: int
) -> Interval:
    n = len(values)
    if n == 0 or not all(len(cluster) for cluster in values):
        raise ValueError("an estimate needs at least one victim, and at least one value of each")
    table = np.full((n, max(len(cluster) for cluster in values)), np.nan)
    for row, cluster in zip(table, values, strict=True):
        row[: len(cluster)] = cluster
    estimate = float(statistic(table))
    if n < _LEAST_FOR_BOOTSTRAP:
        return Interval(value=estimate, low=None, high=None, n=n)
    resampled = table[generator.integers(n, size=(resamples, n))].reshape(resamples, -1)
    low, high = np.quantile(statistic(resampled, axis=1), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=estimate, low=float(low), high=float(high), n=n)
