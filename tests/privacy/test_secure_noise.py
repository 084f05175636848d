"""Gaussian noise from ChaCha20: its law, its independence over calls, its shape and type."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedsim.privacy import secure_noise
from fedsim.privacy.secure_noise import normal

N = 200_000


@pytest.fixture(scope="module")
def values():
    return normal(torch.empty(N, dtype=torch.float64)).numpy()


def test_moments_are_those_of_a_standard_normal(values):
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - moment) < 5 * math.sqrt(variance / N), power


def test_the_distribution_is_normal_and_so_are_its_tails(values):
    assert stats.kstest(values, "norm").pvalue > 1e-5
    for edge in (2.0, 3.0, 4.0):
        expected = N * 2 * stats.norm.sf(edge)
        assert abs((np.abs(values) > edge).sum() - expected) < 5 * math.sqrt(expected) + 1


def test_values_of_a_call_and_of_calls_after_each_other_are_independent(values):
    later = normal(torch.empty(N, dtype=torch.float64)).numpy()
    for first, second in ((values, later), (values[: N // 2], values[N // 2 :]), (values[:-1], values[1:])):
        for shape in (lambda x: x, np.square, np.abs):  # cosine and sine of one radius are uncorrelated, not only so
            assert abs(np.corrcoef(shape(first), shape(second))[0, 1]) < 5 / math.sqrt(len(first))


def test_steps_of_many_calls_are_independent():
    steps = torch.stack([normal(torch.empty(500)) for _ in range(200)])
    products = (steps @ steps.T / math.sqrt(500))[~torch.eye(200, dtype=torch.bool)]
    assert abs(float(products.mean())) < 0.05
    assert float(products.std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2 * secure_noise._CHUNK + 3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_type_are_those_of_the_tensor(shape, dtype):
    drawn = normal(torch.empty(shape, dtype=dtype))
    assert (drawn.shape, drawn.dtype) == (shape, dtype)
    assert bool(torch.isfinite(drawn).all())


def test_chunks_do_not_repeat():
    drawn = normal(torch.empty(4 * secure_noise._CHUNK))
    parts = drawn.reshape(4, -1)
    assert all(not torch.equal(parts[i], parts[j]) for i in range(4) for j in range(i))


def test_the_generators_of_torch_and_numpy_are_not_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    normal(torch.empty(10))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_a_seed_of_torch_and_numpy_does_not_repeat_the_noise():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        np.random.seed(3)
        drawn.append(normal(torch.empty(8)))
    assert not torch.equal(*drawn)
