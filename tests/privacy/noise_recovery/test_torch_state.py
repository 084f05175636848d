"""The layout of torch's generator state, against its own draws."""

import pytest
import torch

from fedsim.privacy.noise_recovery import mersenne
from fedsim.privacy.noise_recovery.torch_state import generator_from, state_of


@pytest.mark.parametrize("seed", [0, 3, 2**40 + 5])
def test_a_generator_goes_on_behind_a_state(seed):
    source = torch.Generator().manual_seed(seed)
    copy = generator_from(state_of(source))
    assert torch.equal(torch.rand(2000, generator=source), torch.rand(2000, generator=copy))


def test_a_kept_value_comes_first_in_small_draws_and_takes_no_output():
    state = state_of(torch.Generator().manual_seed(8))
    plain, keeper = generator_from(state), generator_from(state, holds_value=True)
    torch.empty(1).normal_(generator=keeper)  # the kept one, which is arbitrary
    assert torch.equal(torch.empty(6).normal_(generator=keeper), torch.empty(6).normal_(generator=plain))


def test_the_first_words_are_those_of_the_seed():
    outputs = mersenne.outputs(state_of(torch.Generator().manual_seed(9)), 30)
    uniforms = torch.rand(30, generator=torch.Generator().manual_seed(9), dtype=torch.float32)
    assert (uniforms.double() * 2**24).tolist() == [int(word) & 0xFFFFFF for word in outputs]
