"""Simulated client updates on public examples, and permuted attribute values."""

import torch

from fedsim.core.types import WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.threat.changes import permute_labels, simulated_changes
from tests.experiment.running import Build
from tests.questions.attributes.described import SMALL

FEDERATION = {"clients": 5, "batch_size": 3}


def test_permuted_values_hold_nothing_of_the_true_ones() -> None:
    labels = torch.arange(60) % 3
    own = permute_labels(labels, torch.Generator().manual_seed(0))
    counts = [(own[labels == value]).bincount(minlength=3).tolist() for value in range(3)]
    assert all(max(count) - min(count) <= 1 for count in counts)
    assert not torch.equal(own, permute_labels(labels, torch.Generator().manual_seed(1)))


def test_each_share_of_public_examples_gives_the_mean_gradient_of_its_own_examples(scenario: Build) -> None:
    world = worlds.build(
        scenario(
            **{**SMALL, "threat": {"victims": 1}, "federation": FEDERATION, "data": {"name": "digits", "test": 30}}
        )
    )
    received = world.models.first_weights
    update, _ = local_training(world, received, 1, 0)
    shares = [torch.tensor([0, 7, 3]), torch.tensor([11, 2, 29])]
    changes = list(simulated_changes(world, WireEntry(1, 0, received, update), shares))
    test = world.data.dataset.test
    for share, change in zip(shares, changes, strict=True):
        model = world.models.load_weights(received)
        loss = torch.nn.functional.cross_entropy(model(test.inputs[share]), test.labels[share])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        for mine, expected in zip(change.values(), gradient, strict=True):
            assert torch.allclose(mine, expected, atol=1e-6)  # single precision
