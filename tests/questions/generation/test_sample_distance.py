"""The Frechet distance beside scipy's root of a matrix, and where it is known."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fedsim.core.errors import FedsimError
from fedsim.questions.generation.sample_distance import sample_distance


def features(seed: int, count: int = 50) -> torch.Tensor:
    own = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=own) @ torch.randn(4, 4, generator=own)


def test_it_is_the_formula() -> None:
    first, second = features(1), features(2, 30)
    a, b = first.double().numpy(), second.double().numpy()
    root = np.real(np.asarray(sqrtm(np.cov(a.T) @ np.cov(b.T))))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert sample_distance(first, second) == pytest.approx(float(expected), rel=1e-6)  # two ways to a matrix root


def test_a_shift_is_its_square_and_a_set_is_at_no_distance_from_itself() -> None:
    own = features(3)
    assert sample_distance(own, own) == pytest.approx(0, abs=1e-10)
    assert sample_distance(own, own + 2) == pytest.approx(16, rel=1e-6)


def test_more_features_than_samples_are_no_failure_and_a_single_sample_is() -> None:
    wide = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    assert sample_distance(wide, wide + 1) == pytest.approx(10, rel=1e-6)
    with pytest.raises(FedsimError, match="needs two samples of each kind, got 1 and 3"):
        sample_distance(wide[:1], wide)


def test_it_is_the_same_in_both_directions_of_which_one_has_fewer_samples_than_features() -> None:
    few, many = features(4, 3), features(5, 30)
    assert sample_distance(few, many) == pytest.approx(sample_distance(many, few), rel=1e-6)  # two factorisations
