"""Kinks are told from bends, and models without derivatives are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._smoothness import refuse_kinks
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.second_order.solved import solve, toy


def test_models_without_derivatives_are_refused() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, inputs: Tensor) -> Tensor:
            return 2.0 * inputs

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:
            return 2.0 * gradient

    class Layer(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return Doubled.apply(inputs)

    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), Layer(), nn.Linear(12, 4)), (1, 4, 4), 1)
    with pytest.raises(NotApplicable, match="no derivative in many directions"):
        solve(observation)


def chain(activation: Callable[[], nn.Module], seed: int, norm: bool = False) -> nn.Module:
    """Four convolutions; where few values are normalised at a time, their gradient bends much."""
    layers: list[nn.Module] = []
    with seeding.isolate_randomness(seed):
        for channels, stride in ((1, 1), (4, 2), (4, 2), (4, 1)):
            layers += [nn.Conv2d(channels, 4, 3, stride, 1), nn.GroupNorm(2, 4) if norm else nn.Identity()]
            layers.append(activation())
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4))


def pooled(seed: int) -> nn.Module:
    with seeding.isolate_randomness(seed):
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, 1, 1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 1, 1), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(64, 4)),
        )


def refusal(model: nn.Module, batch_size: int = 1) -> str | None:
    return refuse_kinks(toy(model, (1, 8, 8), batch_size)[0])


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.ELU])
def test_smooth_activations_are_none_of_its_kinks(activation: Any) -> None:
    assert refusal(chain(activation, 0)) is None


@pytest.mark.parametrize("activation", [nn.SiLU, nn.GELU])
@pytest.mark.parametrize(
    ("batch_size", "seed"),
    [(1, 0), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(4, 2, marks=pytest.mark.slow)],
)
def test_a_normalised_network_bends_and_has_no_kinks(activation: Any, batch_size: int, seed: int) -> None:
    assert refusal(chain(activation, seed, norm=True), batch_size) is None


@pytest.mark.parametrize("seed", range(2))
def test_units_that_switch_and_maximum_pooling_are_kinks(seed: int) -> None:
    chains = (chain(unit, seed, norm) for unit in (nn.ReLU, nn.LeakyReLU) for norm in (False, True))
    for model in (*chains, pooled(seed)):
        reason = refusal(model, 2)
        assert "no smooth function" in reason


def test_a_gradient_that_settles_to_the_last_digit_is_smooth() -> None:
    with seeding.isolate_randomness(0):
        nearly_linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        nearly_linear[1].weight.mul_(1e-9)
    assert refusal(nearly_linear) is None
