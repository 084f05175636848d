"""Discrete Gaussian noise: the exact law by a chi-squared test, and values on the grid."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedsim.privacy.discrete_noise import STEPS, add_discrete, discrete_normal


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_frequencies_are_those_of_the_law(scale):
    count = 60_000
    drawn = discrete_normal(count, scale)
    reach = 4 * scale
    law = np.exp(-(np.arange(-60 * scale, 60 * scale + 1) ** 2) / (2 * scale**2))
    law /= law.sum()
    middle = slice(60 * scale - reach, 60 * scale + reach + 1)
    seen = np.bincount(np.clip(drawn, -reach - 1, reach + 1) + reach + 1, minlength=2 * reach + 3)
    outside = law[: 60 * scale - reach].sum()
    expected = count * np.array([outside, *law[middle], outside])
    assert stats.chisquare(seen[1:-1], expected[1:-1] * seen[1:-1].sum() / expected[1:-1].sum()).pvalue > 1e-5
    assert seen[[0, -1]].sum() < 2 * outside * count + 5 * math.sqrt(2 * outside * count) + 2


def test_on_a_fine_grid_it_is_nearly_normal():
    drawn = discrete_normal(50_000, STEPS) / STEPS
    assert stats.kstest(drawn, "norm").pvalue > 1e-5
    assert len(np.unique(drawn)) > 45_000


@pytest.mark.parametrize("count", [0, 1, 17])
def test_the_number_of_values_is_exact(count):
    drawn = discrete_normal(count, 3)
    assert (drawn.shape, drawn.dtype) == ((count,), np.int64)


def test_sums_lie_on_the_grid_whatever_the_tensor():
    deviation = 0.37
    for tensor in (torch.tensor([1e-9, -1e-9, 0.3, -5.0]), torch.full((3, 2), math.pi)):
        steps = add_discrete(tensor.double(), deviation) / (deviation / STEPS)
        assert float((steps - steps.round()).abs().max()) < 1e-6


def test_values_are_cut_towards_zero_so_that_no_norm_grows():
    deviation = float(STEPS)  # a step of 1
    tensor = torch.tensor([0.9, -0.9, 2.5, -2.5], dtype=torch.float64)
    means = torch.stack([add_discrete(tensor, deviation) - tensor for _ in range(3)])
    assert bool(((means + tensor) == (means + tensor).round()).all())
    import fedsim.privacy.discrete_noise as module

    class Silent:
        def __call__(self, count, scale):
            return np.zeros(count, np.int64)

    original, module.discrete_normal = module.discrete_normal, Silent()
    try:
        assert add_discrete(tensor, deviation).tolist() == [0.0, -0.0, 2.0, -2.0]
    finally:
        module.discrete_normal = original


def test_type_and_shape_stay_and_a_deviation_of_0_adds_nothing():
    tensor = torch.ones(2, 3)
    noisy = add_discrete(tensor, 1.0)
    assert (noisy.dtype, noisy.shape) == (torch.float32, (2, 3))
    assert torch.equal(add_discrete(tensor, 0.0), tensor)
    assert add_discrete(torch.tensor(2.0), 1.0).shape == ()
