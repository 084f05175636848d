"""The noise of a defense: stated, worked out from a budget, or the default."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedsim.core.hooks import HookContext
from fedsim.core.types.effects import NoiseGenerator, PrivateNoise
from fedsim.privacy.accounting import noise_multiplier
from fedsim.privacy.budget import Budget


def test_noise_is_what_was_stated_and_else_1() -> None:
    assert Budget().multiplier(0.1, 50, sensitivity=2.0) == 1.0
    assert Budget(noise_multiplier=0.0).multiplier(0.1, 50, sensitivity=2.0) == 0.0
    assert Budget(noise_multiplier=0.7).multiplier(0.1, 50, sensitivity=2.0) == 0.7


def test_epsilon_is_stated_at_the_same_delta_wherever_a_scenario_names_none() -> None:
    assert Budget().delta == 1e-5


@pytest.mark.parametrize("sensitivity", [1.0, 2.0])
def test_noise_for_a_budget_grows_with_the_sensitivity(sensitivity: float) -> None:
    budget = Budget(target_epsilon=3.0, delta=1e-6)
    expected = sensitivity * noise_multiplier(3.0, 1e-6, 1.0, 20)
    assert budget.multiplier(1.0, 20, sensitivity=sensitivity) == expected


def test_what_is_public_is_what_was_set() -> None:
    assert Budget().noise == (PrivateNoise("gaussian", 1.0),)
    assert Budget(noise_multiplier=0.7).noise == (PrivateNoise("gaussian", 0.7),)
    assert Budget(noise_multiplier=0.0).noise == ()
    assert Budget(target_epsilon=3.0).noise == (PrivateNoise("gaussian", epsilon=3.0),)


def context(seed: int, **changes: Any) -> HookContext:
    return HookContext(1, 0, 0, torch.Generator().manual_seed(seed), **changes)


@pytest.mark.parametrize("generator", ["unpredictable", "torch", "numpy", "chacha20"])
def test_noise_of_every_generator_follows_from_the_seed_and_has_the_stated_deviation(generator: NoiseGenerator) -> None:
    tensor, budget = torch.full((200, 200), 5.0, dtype=torch.float64), Budget(generator=generator)
    first, again, other = (budget.noise_adder(context(seed))(tensor, 3.0) - tensor for seed in (1, 1, 2))
    assert first.dtype == torch.float64
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    # Four standard errors: 1 / sqrt(2 n) of the deviation, 1 / sqrt(n) of the mean.
    assert float(first.std()) == pytest.approx(3.0, rel=4 / math.sqrt(2 * first.numel()))
    assert abs(float(first.mean())) < 4 * 3.0 / math.sqrt(first.numel())


def test_numpys_noise_is_a_stream_over_the_tensors_of_a_message_as_in_flowers_mods() -> None:
    adder = Budget(generator="numpy").noise_adder(context(4))
    parts = [adder(torch.zeros(shape), 2.0) for shape in ((3,), (), (2, 5))]
    seeds = torch.randint(1 << 32, (8,), generator=torch.Generator().manual_seed(4)).numpy()
    whole = np.random.RandomState(seeds).normal(0.0, 2.0, 14).astype(np.float32)
    assert [part.shape for part in parts] == [(3,), (), (2, 5)]
    assert torch.equal(torch.cat([part.flatten() for part in parts]), torch.from_numpy(whole))


@pytest.mark.parametrize("generator", ["torch", "numpy", "chacha20"])
def test_a_real_node_draws_from_its_secure_source_whatever_is_stated(generator: NoiseGenerator) -> None:
    adder = Budget(generator=generator).noise_adder(context(1, secure_noise=lambda tensor, scale: tensor - 7 * scale))
    assert adder(torch.ones(3), 2.0).tolist() == [-13.0] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_multiplier": 1.0, "target_epsilon": 1.0},
        {"noise_multiplier": -0.1},
        {"noise_multiplier": float("inf")},
        {"noise_multiplier": float("nan")},
        {"target_epsilon": 0.0},
        {"target_epsilon": float("inf")},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
)
def test_what_means_nothing_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Budget(**settings)


@pytest.mark.parametrize("settings", [{"target_epsilon": 0.5}, {"target_epsilon": 1e-3}, {"delta": 0.999}])
def test_small_budgets_and_any_delta_below_1_are_accepted(settings: dict[str, float]) -> None:
    assert Budget(**settings).model_dump(exclude_unset=True) == settings
