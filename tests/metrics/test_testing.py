"""Figures of a round, by hand."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Similarities
from fedsim.metrics import testing
from fedsim.metrics.testing import agreement, cosines, spearman

NUMBERS = st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5)), min_size=3, max_size=20)


def test_accuracy_is_the_share_of_labels_of_any_shape_that_were_guessed() -> None:
    guesses = torch.tensor([[0, 1], [2, 3]])
    assert testing.test_accuracy(guesses, torch.tensor([[0, 1], [0, 3]])) == 0.75
    assert testing.test_accuracy(guesses[0], torch.tensor([1, 0])) == 0.0


def test_spans_count_as_a_whole() -> None:
    names = ("O", "B-x", "I-x")
    labels = torch.tensor([[1, 2, 0, 1, 0, 1]])
    guesses = torch.tensor([[1, 2, 0, 0, 1, 1]])  # one span right of three, two too many
    assert testing.test_span_f1(guesses, labels, names) == pytest.approx(2 / 3)
    assert testing.test_span_f1(labels, labels, names) == 1.0


def test_pairs_are_ranked_by_their_cosines() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]])
    pairs = torch.tensor([(0, 1), (0, 3), (0, 2)])
    assert testing.test_spearman(embeddings, Similarities(pairs, torch.tensor([5.0, 3.0, 1.0]))) == pytest.approx(1.0)
    assert testing.test_spearman(embeddings, Similarities(pairs, torch.tensor([1.0, 3.0, 5.0]))) == pytest.approx(-1.0)


def test_losses_are_means_and_of_nothing_not_a_number() -> None:
    assert testing.test_loss(torch.tensor([1.0, 2.0, 6.0])) == 3.0
    assert testing.training_loss(6.0, 4.0) == 1.5
    assert math.isnan(testing.training_loss(0.0, 0.0))


def test_all_are_declared_of_a_round() -> None:
    declared = registry.every_metric()
    names = ("test_accuracy", "test_span_f1", "test_spearman", "test_loss", "training_loss")
    assert {declared[name].over for name in names} == {"round"}


def rows(count: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@given(NUMBERS)
def test_the_rank_correlation_is_that_of_scipy_with_ties(pairs: list[tuple[int, float]]) -> None:
    first, second = (torch.tensor(own, dtype=torch.float64) for own in zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = float(spearmanr(first.numpy(), second.numpy()).statistic)
    assert spearman(first, second) == pytest.approx(0.0 if math.isnan(expected) else expected, abs=1e-12)


def test_cosines_of_pairs_and_their_agreement_with_people() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3]])
    assert cosines(embeddings, pairs).tolist() == pytest.approx([1, math.sqrt(0.5), -1])
    assert agreement(embeddings, Similarities(pairs, torch.tensor([5.0, 3.0, 0.0]))) == pytest.approx(1)
    assert agreement(embeddings, Similarities(pairs, torch.tensor([0.0, 1.0, 4.0]))) == pytest.approx(-1)
