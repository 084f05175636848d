"""Metrics of label and feature inference from the messages at the cut of a split model.

Baselines are the most frequent label, and for columns the mean of public examples and the nearest of them.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedsim.core.registry import metric
from fedsim.metrics.membership import auc_interval
from fedsim.metrics.statistics import wilson
from fedsim.record import Interval

_EXACT = 1e-6  # relative to the originals' standard deviation; exact solutions are far below


@metric(
    "cut_label_accuracy",
    title="labels read",
    summary="share of the examples with correctly inferred label; chance is the share of the most common label",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def cut_label_accuracy(guessed: Tensor, labels: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of correctly inferred labels, with Wilson's interval.

    Args:
        guessed: classes, shape (N,).
        labels: classes, shape (N,).
        confidence: coverage of the interval, in (0, 1).
    """
    return wilson(int((guessed == labels).sum()), len(labels), confidence)


@metric(
    "label_auc",
    title="AUC of labels",
    summary="probability that an example of the second class scores above an example of the first class",
    over="finding",
    limits=(0.0, 1.0),
)
def label_auc(
    scores: Tensor, labels: Tensor, generator: np.random.Generator, confidence: float = 0.95
) -> Interval | None:
    """Return the ROC AUC of two classes; None if either class is absent.

    Args:
        scores: higher for class 1, shape (N,).
        labels: 0 or 1, shape (N,).
        generator: source of the resamples.
        confidence: coverage of the interval, in (0, 1).
    """
    positives, negatives = (scores[labels == label].numpy() for label in (1, 0))
    if not len(positives) or not len(negatives):
        return None
    return auc_interval(positives, negatives, generator, confidence)


@metric(
    "cut_r_squared",
    title="features explained",
    summary="1 less the squared error of the guesses over that of the mean of public examples",
    over="finding",
    limits=(None, 1.0),
)
def cut_r_squared(
    errors: Tensor, of_mean: Tensor, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the explained share of variance, with a bootstrap interval over examples.

    Args:
        errors: squared errors of the guesses, shape (N,).
        of_mean: squared errors of the mean of public examples, shape (N,).
        generator: source of the resamples.
        confidence: coverage of the interval, in (0, 1).
        resamples: number of bootstrap resamples.
    """
    pairs = np.stack([errors.double().numpy(), of_mean.double().numpy()])
    chosen = generator.integers(len(errors), size=(resamples, len(errors)))
    wrong, base = pairs[:, chosen].sum(2)
    low, high = np.quantile(1 - wrong / base, [0.5 - confidence / 2, 0.5 + confidence / 2])
    value = float(1 - pairs[0].sum() / pairs[1].sum())
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), n=len(errors))


@metric(
    "exact_rows",
    title="exact rows",
    summary="share of the examples with an exactly solved part",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def exact_rows(guesses: Tensor, originals: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of examples reconstructed up to rounding, with Wilson's interval.

    Args:
        guesses: shape (N, ...).
        originals: of the same shape.
        confidence: coverage of the interval, in (0, 1).
    """
    spread = originals.std().clamp_min(1e-12)
    worst = (guesses - originals).flatten(1).abs().amax(1) / spread
    return wilson(int((worst < _EXACT).sum()), len(worst), confidence)


@metric(
    "nearer_than_public",
    title="nearer than public",
    summary="share of the guesses that are nearer to the original than every public example",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def nearer_than_public(errors: Tensor, of_nearest: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of guesses with a smaller error than the nearest public example, with Wilson's interval.

    Args:
        errors: squared errors of the guesses, shape (N,).
        of_nearest: squared errors of the public example nearest to the truth, shape (N,).
        confidence: coverage of the interval, in (0, 1).
    """
    return wilson(int((errors < of_nearest).sum()), len(errors), confidence)


@metric(
    "split_accuracy",
    title="accuracy of the split model",
    summary="share of the test set that the split model classifies right",
    over="finding",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def split_accuracy(outputs: Tensor, labels: Tensor, confidence: float = 0.95) -> Interval:
    """Return the accuracy with Wilson's interval.

    Args:
        outputs: outputs of the model on the test set, shape (N, classes).
        labels: classes, shape (N,).
        confidence: coverage of the interval, in (0, 1).
    """
    return cut_label_accuracy(outputs.argmax(1), labels, confidence)
