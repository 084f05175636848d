"""Metrics of inference from boosted trees.

Counts, targets and values are exact; boxes and rows are guesses with a public-data baseline.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from fedsim.core.registry import metric
from fedsim.metrics.statistics import mean_interval, wilson
from fedsim.questions.trees.types import RowBoxes
from fedsim.record import Interval

_EXACT = 1e-4  # of a label's standard deviation: errors of float32 sums of derivatives are about 1e-6
_NEAR = 0.319  # standard deviations of a column; TimberStrike's tolerance


@metric(
    "leaf_counts_exact",
    title="leaves read",
    summary="share of the leaves with exactly recovered row count and label sum",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def leaf_counts_exact(read: Tensor, sums: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of leaves recovered exactly, with Wilson's interval.

    Args:
        read: inferred number of rows and sum of labels of each leaf, shape (L, 2).
        sums: true values, shape (L, 2).
        confidence: coverage of the interval, in (0, 1).
    """
    return wilson(int(_are_exact(read, sums).sum()), len(sums), confidence)


def _are_exact(read: Tensor, sums: Tensor) -> Tensor:
    return (read[:, 0] == sums[:, 0]) & ((read[:, 1] - sums[:, 1]).abs() <= _EXACT * sums[:, 0])


@metric(
    "targets_exact",
    title="labels of single rows read",
    summary="share of the rows with exactly recovered label, because they are alone in a leaf",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def targets_exact(read: Tensor, sums: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of rows alone in an exactly recovered leaf, with Wilson's interval; see `leaf_counts_exact`."""
    single_rows = _are_exact(read, sums) & (sums[:, 0] == 1)
    return wilson(int(single_rows.sum()), int(sums[:, 0].sum()), confidence)


@metric(
    "threshold_precision",
    title="values shown",
    summary="share of the listed values that occur in that column of the client's rows",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def threshold_precision(occur: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of values that occur (V,), with Wilson's interval."""
    return wilson(int(occur.sum()), len(occur), confidence)


def find_occurring(listed: Tensor, rows: Tensor) -> Tensor:
    """Return which of the listed columns and values (V, 2) occur in rows (N, D), as float32, shape (V,)."""
    return (rows.float()[:, listed[:, 0].long()] == listed[:, 1].float()).any(0)


@metric(
    "covered",
    title="rows covered",
    summary="share of the rows that a one-to-one matching assigns to a box that contains them and has the right label",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def covered_share(matched: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of matched rows (N,), with Wilson's interval."""
    return wilson(int(matched.sum()), len(matched), confidence)


def match_boxes(boxes: RowBoxes, rows: Tensor, labels: Tensor) -> Tensor:
    """Return which rows (N, D) get a box with the correct label in a maximum one-to-one matching, shape (N,)."""
    fits = boxes.contains_rows(rows) & (boxes.labels[:, None] == labels)
    return torch.from_numpy(maximum_bipartite_matching(csr_array(fits.numpy()), perm_type="row") >= 0)


@metric(
    "single_row_boxes",
    title="rows alone in a box",
    summary="share of the boxes that contain exactly one row of the client",
    over="finding",
    form="percent",
    digits=1,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def single_row_boxes(single_rows: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of boxes with exactly one row (N,), with Wilson's interval."""
    return wilson(int(single_rows.sum()), len(single_rows), confidence)


def alone_in(boxes: RowBoxes, rows: Tensor) -> Tensor:
    """Return which boxes contain exactly one of the rows (R, D), shape (N,)."""
    return boxes.contains_rows(rows).sum(1) == 1


@metric(
    "box_bits",
    title="bits of a box",
    summary="mean of minus log2 of the share of public rows in a box, smoothed: (k + 1) / (n + 2)",
    over="finding",
    limits=(0.0, None),
)
def box_bits(boxes: RowBoxes, public: Tensor, generator: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return the mean over boxes with a bootstrap interval; `public` has shape (P, D)."""
    share = (boxes.contains_rows(public).sum(1) + 1) / (len(public) + 2)
    return mean_interval([[float(bits)] for bits in -share.log2()], generator, confidence)


@metric(
    "values_near",
    title="values near",
    summary="share of the values that a guess meets within 0.319 standard deviations, rows matched as well as possible",
    over="finding",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def values_near(scores: Tensor, generator: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return the mean over rows (N,) with a bootstrap interval."""
    return mean_interval([[float(score)] for score in scores], generator, confidence)


@metric(
    "value_gain",
    title="gain over public rows",
    summary="how many more values a guess meets than as many public rows do, matched alike",
    over="finding",
    form="percent",
    digits=1,
    limits=(-1.0, 1.0),
)
def value_gain(scores: Tensor, of_public: Tensor, generator: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return the mean difference over rows, both of shape (N,), with a bootstrap interval."""
    return mean_interval([[float(gain)] for gain in scores - of_public], generator, confidence)


def near_scores(guesses: Tensor, rows: Tensor, spread: Tensor) -> Tensor:
    """Return each row's share of values within tolerance of its guess, with rows matched for the maximum sum.

    Args:
        guesses: shape (M, D).
        rows: shape (N, D).
        spread: standard deviation of each column, shape (D,).

    Returns:
        Shape (N,); 0 for a row without a guess.
    """
    is_near = ((rows[:, None] - guesses).abs() <= _NEAR * spread).double().mean(2)
    row, guess = linear_sum_assignment(is_near.numpy(), maximize=True)
    scores = torch.zeros(len(rows), dtype=torch.double)
    scores[row] = is_near[row, guess]
    return scores


@metric(
    "trees_accuracy",
    title="accuracy of the trees",
    summary="share of the public rows that the model in the end classifies right",
    over="finding",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def trees_accuracy(probability: Tensor, labels: Tensor, confidence: float = 0.95) -> Interval:
    """Return the accuracy over rows (N,), with Wilson's interval."""
    return wilson(int(((probability > 0.5).long() == labels).sum()), len(labels), confidence)  # noqa: PLR2004 - the likelier


@metric(
    "trees_explained",
    title="explained by the trees",
    summary="1 less the squared error of the model in the end over that of the mean, on public rows",
    over="finding",
    limits=(None, 1.0),
)
def trees_explained(numbers: Tensor, labels: Tensor) -> Interval:
    """Return the explained share of variance over rows (N,), without interval."""
    value = 1 - float((numbers - labels).square().sum() / (labels - labels.mean()).square().sum())
    return Interval(value=value, low=None, high=None, n=len(labels))
