"""Metrics of leakage from generation traces: prompt, membership, planted secrets, and mutual information.

Texts of one prompt are dependent, so intervals use prompts as units, not texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsim.core.registry import metric
from fedsim.metrics.membership import auc_interval
from fedsim.metrics.statistics import mean_interval, wilson
from fedsim.questions.generation.answers import share_of_prompts
from fedsim.record import Interval

_NEIGHBOURS = 3
_JITTER = 1e-10  # in standard deviations


class Bits(NamedTuple):
    """Mutual information in bits: the estimate, its mean under the null hypothesis, and the p-value."""

    information: Interval
    chance: float
    p: float


@metric(
    "prompt_accuracy",
    title="prompt told",
    summary="share of the texts with correctly inferred prompt",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
def prompt_accuracy(guesses: np.ndarray, prompts: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the share of correct guesses with Wilson's interval, n the number of prompts."""
    return share_of_prompts((guesses == prompts).tolist(), prompts.tolist(), confidence)


@metric(
    "trace_auc",
    title="AUC",
    summary="probability that a text that was trained on has a larger score than another",
    over="finding",
    limits=(0.0, 1.0),
)
def trace_auc(
    scores: np.ndarray, is_member: np.ndarray, generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Return the AUC with a bootstrap interval over texts."""
    return auc_interval(scores[is_member], scores[~is_member], generator, confidence)


@metric(
    "trace_exposure",
    title="exposure",
    summary="log2 of the number of secrets of a form, minus log2 of the planted secret's rank by its trace",
    over="finding",
    unit="bits",
    limits=(0.0, None),
)
def trace_exposure(
    scores: np.ndarray, generator: np.random.Generator, confidence: float = 0.95
) -> tuple[Interval, float]:
    """Return the mean exposure of secrets with its interval, and its mean under uniform ranks.

    Args:
        scores: a row per secret, its own score first, shape (secrets, 1 + others). Ties are ranked at random.
        generator: source of ranks and resamples.
        confidence: coverage of the interval.
    """
    count = scores.shape[1]
    better = (scores[:, 1:] > scores[:, :1]).sum(1)
    equal = (scores[:, 1:] == scores[:, :1]).sum(1)
    ranks = 1 + better + generator.integers(0, equal + 1)
    bits = np.log2(count) - np.log2(ranks)
    chance = float(np.log2(count) - np.log2(np.arange(1, count + 1)).mean())
    return mean_interval([[figure] for figure in bits.tolist()], generator, confidence), chance


@metric(
    "step_ratio",
    title="steps (times)",
    summary="number of steps with a mitigation over the number without",
    over="finding",
    better="lower",
)
@metric(
    "token_ratio",
    title="tokens (times)",
    summary="how many times as many tokens a mitigation sends",
    over="finding",
    better="lower",
)
def times(after: int, before: int, n: int) -> Interval:
    """Return a ratio of two counts over n texts, without interval."""
    return Interval(value=after / max(1, before), low=None, high=None, n=n)


@metric(
    "tokens_per_step",
    title="tokens a step",
    summary="mean over texts of the tokens that a step wrote",
    over="finding",
)
@metric(
    "mean_count",
    title="mean count",
    summary="mean of a count of the traces, such as layers or passes, per token of a text or per image",
    over="finding",
)
def mean_over_texts(values: Sequence[float], generator: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return the mean over texts or images with a bootstrap interval."""
    return mean_interval([[value] for value in values], generator, confidence)


@metric(
    "secret_extraction_rate",
    title="written",
    summary="share of the planted secrets that the decoder writes behind their beginning",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
def secret_extraction_rate(is_written: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Return the share with Wilson's interval, n the number of secrets."""
    return wilson(sum(is_written), len(is_written), confidence)


@metric(
    "trace_bits",
    title="bits",
    summary="mutual information between the prompt and the most informative value of the trace",
    over="finding",
    unit="bits",
    limits=(0.0, None),
    related="Ross 2014, PLoS ONE 9(2) e87357",
)
def trace_bits(
    figures: np.ndarray,
    prompts: np.ndarray,
    generator: np.random.Generator,
    confidence: float = 0.95,
    shuffles: int = 99,
) -> Bits:
    """Return the bits of the most informative feature, their chance level, and the p-value of a permutation test.

    The interval is derived from halves drawn without replacement, whose spread equals that of the whole sample; the
    duplicates of a bootstrap would look like information. Each permuted sample selects its best feature too.

    Args:
        figures: features of each text, shape (N, F).
        prompts: prompt of each text, shape (N,).
        generator: source of halves and permutations.
        confidence: coverage of the interval.
        shuffles: number of permutations; p is at least 1 / (shuffles + 1).
    """
    varying = figures[:, [len(np.unique(column)) > 1 for column in figures.T]]
    if not varying.shape[1]:  # all features are constant
        return Bits(Interval(value=0.0, low=0.0, high=0.0, n=len(prompts)), 0.0, 1.0)
    channel_bits = _information(varying, prompts, generator)
    ceiling = _entropy(prompts)
    best, information = int(channel_bits.argmax()), min(float(channel_bits.max()), ceiling)
    at_random = np.array(
        [_information(varying, generator.permutation(prompts), generator).max() for _ in range(shuffles)]
    )
    column = varying[:, [best]]
    halves = np.array([float(_half(column, prompts, generator)) for _ in range(shuffles)])
    ends = information + np.quantile(halves - halves.mean(), [0.5 - confidence / 2, 0.5 + confidence / 2])
    p = (1 + int((at_random >= information).sum())) / (shuffles + 1)
    low, high = ends.clip(0.0, ceiling)
    interval = Interval(
        value=information, low=min(float(low), information), high=max(float(high), information), n=len(prompts)
    )
    return Bits(interval, float(at_random.mean()), p)


def _entropy(prompts: np.ndarray) -> float:
    """Return the entropy of the prompt in bits, an upper bound of the information."""
    odds = np.unique(prompts, return_counts=True)[1] / len(prompts)
    return float(-(odds * np.log2(odds)).sum())


def _half(column: np.ndarray, prompts: np.ndarray, generator: np.random.Generator) -> float:
    """Return the estimate from a half of the texts of each prompt."""
    order = generator.permutation(len(prompts))
    ranked = order[np.argsort(prompts[order], kind="stable")]
    chosen = ranked[int(generator.integers(2)) :: 2]
    return float(_information(column[chosen], prompts[chosen], generator)[0])


def _information(figures: np.ndarray, prompts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return Ross's estimate for each feature in bits.

    Neighbours are counted along sorted values. Features are integers with many ties, so jitter of the size of rounding
    errors is added first, as in scikit-learn. Its distance formula would lose such small differences if a prompt has
    few texts, and report spurious bits.
    """
    jittered = figures / figures.std(0)
    jittered += _JITTER * np.maximum(1.0, np.abs(jittered).mean(0)) * generator.standard_normal(figures.shape)
    return np.array([max(0.0, _ross(column, prompts)) for column in jittered.T]) / np.log(2)


def _ross(values: np.ndarray, prompts: np.ndarray) -> float:
    """Return the estimate in nats; prompts with one text are excluded."""
    from scipy.special import digamma  # noqa: PLC0415 - a run without generations need not wait for SciPy

    _, numbers, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    kept = counts[numbers] > 1
    values, numbers = values[kept], numbers[kept]
    radius, neighbours = np.empty(len(values)), np.minimum(_NEIGHBOURS, counts - 1)
    for number in np.unique(numbers):
        members = np.flatnonzero(numbers == number)
        radius[members] = _distances(values[members], int(neighbours[number]))
    radius -= 4 * np.spacing(np.abs(values))  # exclude the neighbour at this distance, for any rounding of a sum
    sorted_values = np.sort(values)
    counts_within = sorted_values.searchsorted(values + radius, "left") - sorted_values.searchsorted(
        values - radius, "right"
    )
    return float(
        digamma(len(values))
        + digamma(neighbours[numbers]).mean()
        - digamma(counts[numbers]).mean()
        - digamma(np.maximum(1, counts_within)).mean()
    )


def _distances(values: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the distance of each value to its `neighbours`-th nearest neighbour."""
    order = np.argsort(values)
    padded = np.concatenate([np.full(neighbours, -np.inf), values[order], np.full(neighbours, np.inf)])
    n, distances = len(values), np.full(len(values), np.inf)
    for before in range(neighbours + 1):
        low, high = padded[neighbours - before :][:n], padded[2 * neighbours - before :][:n]
        distances = np.minimum(distances, np.maximum(values[order] - low, high - values[order]))
    return distances[np.argsort(order)]
