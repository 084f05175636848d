"""A network with hardsigmoid computes what it did, and its gradient can be differentiated again."""

import copy

import torch
from torch import nn

from fedsim.scenario.second_derivatives import allow_second_derivatives


def test_values_and_gradients_stay_and_second_derivatives_are_those_of_differences() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Hardsigmoid()), nn.Linear(5, 3)).double()
    own = allow_second_derivatives(copy.deepcopy(plain))
    inputs = 3 * torch.randn(7, 6, dtype=torch.double)
    assert torch.allclose(own(inputs), plain(inputs), rtol=0, atol=1e-15)  # rounding
    for one, other in zip(
        torch.autograd.grad(own(inputs).square().sum(), list(own.parameters())),
        torch.autograd.grad(plain(inputs).square().sum(), list(plain.parameters())),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-7)  # torch holds 1/6 in single precision

    def pulled(point: torch.Tensor) -> torch.Tensor:
        (weight,) = torch.autograd.grad(own(point).square().sum(), own[0].weight, create_graph=True)
        return weight.square().sum()

    assert torch.autograd.gradcheck(pulled, inputs.requires_grad_())


def test_a_model_that_is_one_hardsigmoid_is_replaced() -> None:
    assert torch.equal(
        allow_second_derivatives(nn.Hardsigmoid())(torch.tensor([-4.0, 0.0, 4.0])), torch.tensor([0.0, 0.5, 1.0])
    )
