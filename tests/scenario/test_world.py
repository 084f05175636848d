"""A scenario made real, and checked before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

Build = Callable[..., Scenario]


def test_a_round_of_the_server_has_its_own_randomness_and_the_layout_of_the_model(scenario: Build) -> None:
    world = worlds.build(scenario(participation={"cohort": 3}))
    received = world.models.first_weights
    one, same, other = (world.server_round(number, received) for number in (1, 1, 2))
    drawn = [torch.rand(3, generator=own.generator).tolist() for own in (one, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert one.received_weights is received
    assert one.size == world.models.layout.size == sum(t.numel() for t in received.values())
    assert world.server_round(1).received_weights == {}


def test_what_does_not_fit_is_told_by_the_check_and_not_by_the_build(scenario: Build) -> None:
    world = worlds.build(scenario(components=[{"name": "esimcse"}]))
    with pytest.raises(ScenarioError, match="component 'esimcse' does not fit"):
        world.check()


OWN = """
from torch import nn

def narrow(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


def test_a_model_of_ones_own_is_tried_when_the_world_is_built(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "narrow_for_worlds.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FedsimError, match=r"returns shape \(2, 3\) for 2 examples, expected one tensor"):
        worlds.build(scenario(model={"name": "narrow_for_worlds:narrow"}, federation={"batch_size": 4}))


def test_a_world_with_other_data_keeps_the_models(scenario: Build) -> None:
    world = worlds.build(scenario())
    train = world.data.dataset.test
    data = replace(world.data, dataset=replace(world.data.dataset, train=train), shares=(torch.arange(9),) * 2)
    other = world.with_data(data)
    assert other.models is world.models
    assert next(other.data.batches(1, 0)).inputs.shape == next(world.data.batches(1, 0)).inputs.shape
    assert other.data.dataset.train is train
    assert world.data.dataset.train is not train
