"""Small and usual seeds are found behind an update, for each generator; others are not."""

import math

import numpy as np
import pytest
import torch

from fedsim.privacy.noise_recovery import philox
from fedsim.privacy.noise_recovery.result import AGREES, ComputedNoise
from fedsim.privacy.noise_recovery.seed_guessing import TORCH_DEFAULT, guess_seed, largest_disagreement, usual_seeds

SHAPES = ((30, 20), (30,), (10, 30), (10,))
FEW = 3000


def hidden(noise, scale=0.1):
    """Return values with an update, which the attacker does not know."""
    generator = torch.Generator().manual_seed(77)
    return [n + scale * torch.randn(n.shape, generator=generator, dtype=n.dtype) for n in noise]


def torch_noise(seed, shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.empty(shape, dtype=dtype).normal_(generator=generator) for shape in shapes]


def numpy_noise(normal, shapes=SHAPES):
    return [torch.tensor(normal(0.0, 1.0, shape)).float() for shape in shapes]


def check(noise, source, generator, atol=2e-6):
    found = guess_seed(hidden(noise), FEW)
    assert isinstance(found, ComputedNoise), found
    assert found.source == source
    assert generator in found.generator
    assert 0.03 < found.disagreement < 0.12
    assert all(torch.allclose(a, b, atol=atol) for a, b in zip(found.noise, noise, strict=True))


@pytest.mark.parametrize("shapes", [SHAPES, ((1,), (3, 100)), ((10,), (8,), (300,)), ((7,), (400,))])
@pytest.mark.parametrize("seed", [42, 2999, 20240517, TORCH_DEFAULT])
def test_torch_on_the_cpu(shapes, seed):
    check(torch_noise(seed, shapes), f"seed {seed}", "torch CPU")


def test_torch_on_the_cpu_in_float64():
    check(torch_noise(17, dtype=torch.float64), "seed 17", "torch CPU")


@pytest.mark.parametrize("seed", [0, 2998, 20240517])
def test_numpy_legacy(seed):
    check(numpy_noise(np.random.RandomState(seed).normal), f"seed {seed}", "RandomState")


@pytest.mark.parametrize("seed", [1, 2997])
def test_numpy_pcg64(seed):
    check(numpy_noise(np.random.default_rng(seed).normal), f"seed {seed}", "PCG64")


@pytest.mark.parametrize("threads", [40 * 1024, 132 * 2048])
def test_torch_on_cuda(threads):
    noise = philox.draw_like([torch.empty(300, 200), torch.empty(10)], 2996, threads)
    check(noise, "seed 2996", "CUDA")


@pytest.mark.parametrize("seed", [FEW, 5_000_011])
def test_a_seed_that_is_not_among_those_tried_is_not_found(seed):
    found = guess_seed(hidden(torch_noise(seed)), FEW)
    assert not isinstance(found, ComputedNoise)
    assert "no small or usual seed" in str(found)


def test_a_few_values_are_too_few():
    assert "too few" in str(guess_seed([torch.zeros(11)], FEW))


def test_usual_seeds_are_not_among_the_small_ones_only():
    assert {20240229, 1 << 31, (1 << 32) - 1, TORCH_DEFAULT} <= set(usual_seeds())


@pytest.mark.parametrize("count", [12, 16, 40])
def test_few_values_of_a_generator_without_a_small_seed_are_never_called_computable(count):
    """Among a million seeds some fit a dozen values coarsely."""
    for seed in (2**61 + 3**30, 2**61 + 3**31):
        assert not isinstance(guess_seed(torch_noise(seed, ((count,),)), 1 << 13), ComputedNoise)


@pytest.mark.parametrize(("count", "scale"), [(12, 1e-3), (40, 0.02), (200, 0.2)])
def test_few_values_show_their_seed_if_the_update_is_small_against_the_noise(count, scale):
    noise = torch_noise(7, ((count,),))
    found = guess_seed(hidden(noise, scale), FEW)
    assert isinstance(found, ComputedNoise)
    assert found.source == "seed 7"


def test_the_limit_keeps_wrong_seeds_out():
    """By the exact law of the median of 2**23 wrong seeds."""
    for count in (12, 16, 64, 100, 400):
        limit = largest_disagreement(count)
        single = math.erf(limit / 2)
        half = sum(math.comb(count, k) * single**k * (1 - single) ** (count - k) for k in range(count // 2, count + 1))
        assert half * 2**23 < 1e-6
    assert largest_disagreement(12) < largest_disagreement(64) < largest_disagreement(400) == AGREES
