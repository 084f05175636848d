"""Test metrics of a global model, and training loss of its clients in a round.

The functions take predictions and labels of the test set; tasks compute both after each evaluated round.
The quality of sentence embeddings is the rank correlation of Cer et al. 2017, arXiv 1708.00055; embeddings may have any
norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Similarities
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
    """Return the rank correlation with human ratings, in [-1, 1]; see `agreement`."""
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


def spearman(first: Tensor, second: Tensor) -> float:
    """Return the rank correlation of two series of N numbers, in [-1, 1]; ties share their mean rank.

    0 if either is constant.
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - most runs need not wait for SciPy

    ranks = torch.stack([torch.from_numpy(rankdata(figures.double().numpy())) for figures in (first, second)])
    centred = ranks - ranks.mean(1, keepdim=True)
    spread = centred.norm(dim=1).prod()
    return float(centred.prod(0).sum() / spread) if float(spread) else 0.0


def cosines(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Return the cosine of pairs (P, 2) of embeddings (N, d), shape (P,)."""
    unit = F.normalize(embeddings.double(), dim=1)
    return (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1)


def agreement(embeddings: Tensor, similarities: Similarities) -> float:
    """Return the rank correlation between the cosines of pairs and human ratings, in [-1, 1].

    Args:
        embeddings: embeddings of the test examples, shape (N, d).
        similarities: pairs of test examples with ratings.
    """
    return spearman(cosines(embeddings, similarities.pairs), similarities.scores)
