"""Test metrics of a global model, and training loss of its clients in a round.

The functions take predictions and labels of the test set; tasks compute both after each evaluated round.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Similarities
from fedsim.metrics.embedding import agreement
from fedsim.metrics.tagging import score_spans


@registry.metric(
    "test_accuracy",
    title="accuracy",
    summary="of the last evaluated round, in [0, 1]",
    over="round",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def test_accuracy(guesses: Tensor, labels: Tensor) -> float:
    """Return the share of correct labels, of any shape, in [0, 1]."""
    return float((guesses == labels).double().mean())


@registry.metric(
    "test_rmse",
    title="test error",
    summary="the same: root mean squared error in standard deviations of the training labels, where they are numbers",
    over="round",
    better="lower",
    unit="sd",
    digits=3,
    limits=(0.0, None),
)
def test_rmse(guesses: Tensor, labels: Tensor, std: Tensor) -> float:
    """Return the root mean squared error of numbers (N, ...); 1 for a prediction by their mean.

    Args:
        guesses: predictions, in any shape with as many entries.
        labels: true numbers.
        std: standard deviation of each number over the training set.
    """
    return float(((guesses.reshape(labels.shape) - labels).double() / std).square().mean().sqrt())


@registry.metric(
    "test_span_f1",
    title="span F1",
    summary="the same: micro F1 of whole spans, where labels are tags",
    related="cs/0306050",
    over="round",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def test_span_f1(guesses: Tensor, labels: Tensor, names: Sequence[str]) -> float:
    """Return the micro F1 of spans, in [0, 1]; see `fedsim.metrics.tagging.score_spans`."""
    return score_spans(guesses, labels, names).f1


@registry.metric(
    "test_spearman",
    title="Spearman correlation",
    summary="the same metric without labels: rank correlation of sentence pairs, in [-1, 1]",
    related="1708.00055",
    over="round",
    digits=3,
    limits=(-1.0, 1.0),
)
def test_spearman(embeddings: Tensor, similarities: Similarities) -> float:
    """Return the rank correlation with human ratings, in [-1, 1]; see `fedsim.metrics.embedding.agreement`."""
    return agreement(embeddings, similarities)


@registry.metric(
    "test_loss",
    title="loss",
    summary="mean cross-entropy on the test set, nats",
    over="round",
    better="lower",
    digits=3,
    limits=(0.0, None),
    shown=False,
    compared=False,
    tables="none",
)
def test_loss(losses: Tensor) -> float:
    """Return the mean loss over all labels."""
    return float(losses.mean())


@registry.metric(
    "training_loss",
    title="training loss",
    summary="mean loss of the examples behind the updates that counted, as clients stated it",
    over="round",
    better="lower",
    digits=3,
    limits=(0.0, None),
    shown=False,
    compared=False,
    tables="none",
)
def training_loss(total: float, weight: float) -> float:
    """Return the weighted mean; NaN for weight 0."""
    return total / weight if weight else float("nan")
