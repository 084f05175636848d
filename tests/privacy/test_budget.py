"""The noise of a defense: stated, worked out from a budget, or the default."""

import pytest
from pydantic import ValidationError

from fedsim.core.types.effects import PrivateNoise
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
