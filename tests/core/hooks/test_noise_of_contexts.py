"""Noise of contexts: from the seed in a simulation, from the given source on a real node."""

import math

import pytest
import torch

from fedsim.core.hooks import HookContext, ServerRound


def contexts(seed):
    def generator():
        return torch.Generator().manual_seed(seed)

    return [HookContext(1, 0, 0, generator()), ServerRound(1, generator(), 3.0, 8)]


@pytest.mark.parametrize("kind", [0, 1])
def test_noise_of_a_seed_has_the_stated_deviation_and_the_tensors_type(kind):
    tensor = torch.full((40_000,), 5.0, dtype=torch.float64)
    noise = contexts(1)[kind].add_noise(tensor, 3.0) - tensor
    assert noise.dtype == torch.float64
    # The deviation of n draws is off by 1 / sqrt(2 n) of itself, their mean by 1 / sqrt(n): four times that.
    assert float(noise.std()) == pytest.approx(3.0, rel=4 / math.sqrt(2 * len(tensor)))
    assert abs(float(noise.mean())) < 4 * 3.0 / math.sqrt(len(tensor))
    assert torch.equal(contexts(1)[kind].add_noise(tensor, 3.0) - tensor, noise)
    assert not torch.equal(contexts(2)[kind].add_noise(tensor, 3.0) - tensor, noise)


def test_the_layout_of_a_tensor_does_not_change_the_order_of_draws():
    tensor = torch.arange(40.0).reshape(5, 8)
    plain, transposed = (contexts(4)[0].add_noise(t, 1.0) for t in (tensor, tensor.T.contiguous().T))
    assert torch.equal(plain, transposed)


def test_a_secure_source_takes_the_place_of_the_generator():
    generator = torch.Generator().manual_seed(1)
    context = HookContext(1, 0, 0, generator, secure_noise=lambda tensor, deviation: tensor - 7 * deviation)
    state = generator.get_state()
    assert context.add_noise(torch.ones(3), 2.0).tolist() == [-13.0] * 3
    assert torch.equal(generator.get_state(), state)
