"""Estimates with intervals. The independent unit is the victim: images of one update share its fate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from fedsim.core.seeding import derive
from fedsim.metrics.labels import label_accuracy
from fedsim.record import CompositeSummary, Interval, ItemScore, MaskScore, Summary, TextSummary, VictimRecord

Metric = Literal["psnr", "ssim", "mse"]
Clusters = Sequence[Sequence[float]]
_Statistic = Callable[..., np.ndarray]

_LEAST_FOR_BOOTSTRAP = 3


def mean_interval(
    values: Clusters, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the mean over all values with a percentile bootstrap interval that resamples victims.

    Args:
        values: one non-empty sequence a victim, a value an image.
        generator: source of the resamples.
        confidence: coverage of the interval, in (0, 1).
        resamples: number of bootstrap resamples.

    Returns:
        With n the number of victims; without bounds when that is below 3.

    Raises:
        ValueError: there is no victim, or one without values.
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
        successes: in [0, n]; a victim with several images may count by the share that succeeded. The interval is
            then as wide as if all its images shared one fate, so it is never too narrow.
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


def succeeded(item: ItemScore, metric: Metric, threshold: float) -> bool:
    """Tell whether an image counts as recovered: PSNR or SSIM above the threshold, MSE below it."""
    if metric == "mse":
        return item.mse < threshold
    return getattr(item, metric) > threshold


def mask_accuracy(masks: Sequence[MaskScore]) -> float | None:
    """Return the share of identifiable mask entries that were estimated right, over all sites, or None without any."""
    scored = [(mask.accuracy, mask.identifiable) for mask in masks if mask.accuracy is not None]
    units = sum(count for _, count in scored)
    return sum(accuracy * count for accuracy, count in scored) / units if units else None


def summarise(
    victims: Sequence[VictimRecord],
    metric: Metric,
    threshold: float,
    seed: int,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Summary:
    """Summarise one attack over its victims.

    The unit of resampling is the victim (a cluster bootstrap when it has several images). A victim on which the
    attack failed counts as no success; it has no image, so it is absent from PSNR, SSIM, MSE and label statistics,
    whose n shows how many remained. All statistics use the same resamples of the victims.

    Args:
        victims: at least one.
        metric: which score decides success.
        threshold: success is PSNR (dB) or SSIM above, MSE below it.
        seed: the scenario's seed.
        confidence: coverage of every interval, in (0, 1).
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there are no victims.
    """
    ended = [victim for victim in victims if victim.failure is None]
    scored, read = [victim for victim in ended if victim.scores], [victim for victim in ended if victim.sentences]
    shares = [float(np.mean([succeeded(i, metric, threshold) for i in victim.scores])) for victim in scored]
    shares += [float(np.mean([sentence.exact for sentence in victim.sentences])) for victim in read]
    labels = [label_accuracy([i.guessed_label for i in v.scores], [i.label for i in v.scores]) for v in scored]
    masks = [accuracy for v in scored if (accuracy := mask_accuracy(v.masks)) is not None]

    def over(statistic: _Statistic, values: Clusters) -> Interval | None:
        source = np.random.default_rng(derive(seed, "bootstrap"))
        return _bootstrap(statistic, values, source, confidence, resamples) if values else None

    def of(field: str, examples: Sequence[Sequence[object]]) -> Clusters:
        values = [[getattr(item, field) for item in victim] for victim in examples]
        known = ([float(value) for value in own if value is not None] for own in values)
        return [own for own in known if own]

    images, sentences = [victim.scores for victim in scored], [victim.sentences for victim in read]
    composites = CompositeSummary(
        psnr_trained=over(np.nanmedian, of("psnr_trained", images)),
        ssim_trained=over(np.nanmean, of("ssim_trained", images)),
        psnr_seen=over(np.nanmedian, of("psnr_seen", images)),
        seen=over(np.nanmean, of("seen", images)),
        minor_found=over(np.nanmean, of("minor_found", images)),
    )

    return Summary(
        success=wilson(min(sum(shares), len(victims)), len(victims), confidence),
        psnr_median=over(np.nanmedian, of("psnr", images)),
        psnr_mean=over(np.nanmean, of("psnr", images)),
        ssim_mean=over(np.nanmean, of("ssim", images)),
        mse_mean=over(np.nanmean, of("mse", images)),
        label_accuracy=over(np.nanmean, [[label] for label in labels]),
        mask_accuracy=over(np.nanmean, [[mask] for mask in masks]),
        composites=composites if any(value for _, value in composites) else None,
        text=TextSummary(
            token_accuracy=over(np.nanmean, of("token_accuracy", sentences)),
            rouge_1=over(np.nanmean, of("rouge_1", sentences)),
            rouge_2=over(np.nanmean, of("rouge_2", sentences)),
            rouge_l=over(np.nanmean, of("rouge_l", sentences)),
            secrets=_secrets(read, confidence),
        )
        if read
        else None,
    )


def _secrets(read: Sequence[VictimRecord], confidence: float) -> Interval | None:
    """Return the share of planted spans that were read, each update by its own share; None where none was planted."""
    holding = [[own.secret_read for own in victim.sentences if own.secret is not None] for victim in read]
    shares = [sum(own) / len(own) for own in holding if own]
    return wilson(min(sum(shares), len(shares)), len(shares), confidence) if shares else None


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
    drawn = table[generator.integers(n, size=(resamples, n))].reshape(resamples, -1)
    low, high = np.quantile(statistic(drawn, axis=1), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=estimate, low=float(low), high=float(high), n=n)
