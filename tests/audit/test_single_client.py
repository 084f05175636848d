"""Worlds of audited subjects: what is said about the defenses that a subject already has."""

import re

import pytest
import torch
from torch import nn

from fedsim.audit import AuditPlan, single_client
from fedsim.audit.subject import CheckedSubject
from fedsim.core.errors import FedsimError
from tests.audit.subjects import small

WRITTEN = ("gradient-noise", "pruning", "soteria")  # they act in the opposite order


def half_cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels) / 2


@pytest.fixture
def subject() -> CheckedSubject:
    return small(half_cross_entropy, defenses=tuple({"name": name} for name in WRITTEN))


def test_the_name_in_a_message_is_that_of_the_defense_which_does_not_fit(subject: CheckedSubject) -> None:
    world = single_client.world_of(subject, AuditPlan(target="test", batches=(2,), minutes=1.0), 2)
    assert [defense.name for defense in world.stack.defenses_as_written] == [*WRITTEN]
    assert [defense.name for defense in world.stack.defenses] == [*reversed(WRITTEN)]
    with pytest.raises(FedsimError, match=re.escape("defense 'soteria' computes cross-entropy")):
        single_client.check(world, subject)
