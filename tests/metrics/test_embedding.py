"""Figures of embeddings against SciPy, against loops over all pairs, and at their ends."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from fedsim.core.types import Similarities
from fedsim.metrics.embedding import agreement, alignment, cosines, length_bias, spearman, uniformity

NUMBERS = st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5)), min_size=3, max_size=20)


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


@given(st.integers(2, 9), st.floats(0.1, 10))
def test_alignment_and_uniformity_are_their_definitions_and_blind_to_scale(count: int, scale: float) -> None:
    first, second = rows(count), rows(count, seed=1)
    unit = [[x / float(row.norm()) for x in row.tolist()] for row in first]
    other = [[x / float(row.norm()) for x in row.tolist()] for row in second]

    def squared(a: list[float], b: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    aligned = sum(squared(a, b) for a, b in zip(unit, other, strict=True)) / count
    terms = [math.exp(-2 * squared(unit[i], unit[j])) for i in range(count) for j in range(i)]
    assert alignment(first * scale, second) == pytest.approx(aligned, rel=1e-5)
    assert uniformity(first * scale) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-5, abs=1e-6)


def test_the_ends_of_alignment_and_uniformity() -> None:
    assert alignment(rows(5), 3 * rows(5)) == pytest.approx(0, abs=1e-12)
    assert alignment(rows(5), -rows(5)) == pytest.approx(4)
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)


def test_embeddings_that_show_the_length_are_biased_and_others_are_not() -> None:
    lengths = torch.arange(1, 9)
    angles = lengths / 8
    pairs = torch.stack([torch.zeros(7, dtype=torch.long), torch.arange(1, 8)], 1)
    biased = torch.stack([angles.cos(), angles.sin()], 1)
    assert length_bias(biased, lengths, pairs) == pytest.approx(-1)
    assert length_bias(biased, torch.ones(8), pairs) == 0.0


def test_the_bias_is_that_of_how_far_lengths_are_apart_whichever_is_longer() -> None:
    embeddings, lengths = rows(6), torch.tensor([9, 1, 5, 2, 8, 4])
    pairs = torch.combinations(torch.arange(6))
    apart = [abs(int(lengths[i]) - int(lengths[j])) for i, j in pairs.tolist()]
    alike = [float(embeddings[i] @ embeddings[j] / embeddings[[i, j]].norm(dim=1).prod()) for i, j in pairs.tolist()]
    assert length_bias(embeddings, lengths, pairs) == pytest.approx(float(spearmanr(apart, alike).statistic), abs=1e-12)
