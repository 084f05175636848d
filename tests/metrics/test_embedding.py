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
from fedsim.metrics.embedding import agreement, cosines, spearman

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
