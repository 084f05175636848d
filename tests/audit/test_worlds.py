"""Worlds of audited subjects: what is said about the defenses that a subject already has."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import Plan, worlds
from fedsim.audit.subject import Checked, Subject, checked
from fedsim.core.errors import FedsimError

WRITTEN = ("gradient-noise", "pruning", "soteria")  # they act in the opposite order


def half_cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels) / 2


@pytest.fixture
def subject() -> Checked:
    generator = torch.Generator().manual_seed(2)
    examples = TensorDataset(torch.rand(8, 1, 4, 4, generator=generator), torch.arange(8) % 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    loader = DataLoader(examples, batch_size=4)
    defenses = tuple({"name": name} for name in WRITTEN)
    return checked(Subject(model, half_cross_entropy, loader, defenses=defenses), "test")


def test_the_name_in_a_message_is_that_of_the_defense_which_does_not_fit(subject: Checked) -> None:
    world = worlds.world_of(subject, Plan(target="test", batches=(2,), minutes=1.0), 2)
    assert [defense.name for defense in world.stack.defenses_as_written] == [*WRITTEN]
    assert [defense.name for defense in world.stack.defenses] == [*reversed(WRITTEN)]
    with pytest.raises(FedsimError, match=re.escape("defense 'soteria' computes cross-entropy")):
        worlds.check(world, subject)
