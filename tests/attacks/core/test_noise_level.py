"""The level of noise on a gradient: as stated, as rounding leaves it, and as singular values show it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.core.noise_level import measured_levels, rounding_levels, stated_levels
from fedsim.core.types import MethodDescription, Observation
from fedsim.core.types.effects import AddedNoise
from tests.attacks.solving import sending, toy

NAME = "1.weight"


@pytest.fixture
def observation() -> Observation:
    return toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False)), (3, 2, 2), 1, dtype=torch.float32)[0]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_is_as_large_as_it_is(dtype: torch.dtype, observation: Observation) -> None:
    exact = drawn(300, 64)
    rounded = exact.to(dtype)
    (level,) = rounding_levels(observation, {NAME: rounded})
    error = float((rounded.double() - exact).square().mean().sqrt())
    assert error < 1.05 * level
    if dtype != torch.float32:  # sums round more often than single numbers
        assert level == pytest.approx(error, rel=0.05)


def test_a_change_of_weights_has_the_rounding_of_the_weights_once_a_step(observation: Observation) -> None:
    weights = observation.model.get_parameter(NAME)
    with torch.no_grad():
        weights.copy_(torch.rand(weights.shape, generator=torch.Generator().manual_seed(0)) + 1.0)
    delta = replace(observation, update=replace(observation.update, kind="delta"), local_steps=4)
    small = {NAME: 1e-9 * drawn(4, 12)}
    step = torch.finfo(torch.float32).eps  # between 1 and 2, errors are uniform over one step
    assert rounding_levels(delta, small)[0] == pytest.approx(4**0.5 * step / 12**0.5)


def test_a_stated_law_gives_the_level_in_units_of_the_gradient_or_of_its_size(observation: Observation) -> None:
    gradients = {NAME: 3.0 * torch.ones(4, 12)}
    assert stated_levels(observation, gradients) is None
    for relative, expected in ((False, 0.1), (True, 0.3)):
        noise = AddedNoise("gaussian", 0.1, relative)
        told = replace(observation, known_methods=(MethodDescription("gradient-noise", (noise,)),))
        assert stated_levels(told, gradients) == pytest.approx([expected])
        assert measured_levels(told, gradients, 2) == pytest.approx([expected])


@pytest.mark.parametrize("level", [0.01, 0.3])
def test_noise_is_measured_beyond_the_directions_of_the_tokens(level: float, observation: Observation) -> None:
    signal = drawn(60, 3) @ drawn(3, 40, seed=1)
    noisy = signal + level * drawn(60, 40, seed=2)
    narrow = signal[:9] + level * drawn(9, 40, seed=3)  # too few singular values: it gets the level of the other
    found = measured_levels(sending(observation, {"a": noisy, "b": narrow}),
                            {"a": noisy, "b": narrow}, 3)  # fmt: skip
    assert found == pytest.approx([level] * 2, rel=0.05)  # of 2109 squares: three standard errors
