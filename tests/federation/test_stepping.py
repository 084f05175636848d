"""A federation as a function is the federation of the engine."""

import copy
from dataclasses import replace

import torch
from torch import nn

from fedsim.federation.stepping import apply_server_step, train_rounds
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import run


def test_its_weights_are_those_of_the_local_engine_bit_by_bit(scenario: Build) -> None:
    own = scenario(
        federation={"clients": 3, "batch_size": 4, "rounds": 3},
        threat={"rounds": [1, 2, 3]},
        aggregation={"name": "mean", "optimizer": {"name": "adam", "learning_rate": 0.01}},
        defenses=[{"name": "gradient-noise", "scale": 0.01}],
    )
    journal = run(own)
    found = list(train_rounds(worlds.build(own), 3))
    expected = [*(entry.received_weights for entry in journal.entries), journal.weights]
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_buffers_change_by_what_they_changed_by_and_parameters_by_the_rate(scenario: Build) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    world = replace(worlds.build(scenario(federation={"batch_size": 2})), own_model=lambda: copy.deepcopy(network))
    weights, layout = world.models.first_weights, world.models.layout
    after = apply_server_step(world, weights, torch.ones(layout.size), {}, 1)
    parameters, buffers = layout.unflatten(torch.ones(layout.size))
    assert buffers
    assert all(torch.equal(after[name], weights[name] - 1) for name in buffers)
    assert all(torch.equal(after[name], weights[name] - 0.1) for name in parameters)
