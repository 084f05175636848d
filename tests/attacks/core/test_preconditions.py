"""Which updates are one gradient, or a sum of gradients with known weights."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from attacks.core.preconditions import gradient_steps_only, one_gradient_only
from fedsim.core.types import Observation
from tests.attacks.solving import toy


@pytest.fixture
def gradient() -> Observation:
    return toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 1)[0]


def test_a_gradient_is_one_and_several_steps_are_counted_in_the_refusal(gradient: Observation) -> None:
    assert one_gradient_only(gradient) is None
    assert gradient_steps_only(replace(gradient, local_steps=3)) is None
    reason = one_gradient_only(replace(gradient, local_steps=3))
    assert reason == "the update holds 3 local steps; this attack matches a single gradient"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "sgd"}, None),
        ({"optimizer": "adam"}, "the update is one step of 'adam', which is no sum of gradients"),
        ({"optimizer": "adam", "local_steps": 4}, "the update is 4 steps of 'adam'"),
        ({"optimizer": "sgd", "optimizer_settings": {"momentum": 0.9}}, None),
        ({"optimizer": "sgd", "optimizer_settings": {"momentum": 0.0}, "is_resumed": True}, None),
        ({"optimizer": "sgd", "optimizer_settings": {"momentum": 0.9}, "is_resumed": True}, "unknown velocity"),
    ],
)
def test_a_change_of_weights_is_a_sum_of_gradients_only_under_plain_steps(
    gradient: Observation, changes: dict[str, Any], reason: str | None
) -> None:
    delta = replace(gradient, update=replace(gradient.update, kind="delta"), **changes)
    found = gradient_steps_only(delta)
    assert (found is None) if reason is None else (found is not None and reason in found)
