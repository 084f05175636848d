"""Parameters that stay where they are, by name pattern, in the model and in what a client sends."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedsim.components.layer.freeze import Freeze, FreezeConfig
from fedsim.core.errors import NotApplicable
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds


def prepared(*patterns: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return Freeze(FreezeConfig(parameters=patterns)).prepare(model, torch.Generator())


def test_exactly_the_matching_parameters_are_frozen() -> None:
    trained = {name for name, own in prepared("0.*", "*.bias").named_parameters() if own.requires_grad}
    assert trained == {"2.weight"}


def test_a_pattern_without_a_match_and_a_model_without_a_rest_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"no parameter matches '2.wieght'. Did you mean '2.weight'"):
        prepared("2.wieght")
    with pytest.raises(NotApplicable, match="no parameter is left to train"):
        prepared("*")


def test_what_is_frozen_does_not_travel(scenario: Callable[..., Scenario]) -> None:
    frozen = {"name": "freeze", "parameters": ["1.*"]}
    world = worlds.build(scenario(components=[frozen]))
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    plain, _ = local_training(worlds.build(scenario()), world.models.first_weights, 1, 0)
    assert set(plain.tensors) - set(update.tensors) == {name for name in plain.tensors if name.startswith("1.")}
    assert all(torch.equal(tensor, plain.tensors[name]) for name, tensor in update.tensors.items())
