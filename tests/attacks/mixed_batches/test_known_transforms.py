"""Attackers who know a defense that changes the model or the batch: better than those who do not, on tiny models."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Step, Truth
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
Named = Callable[..., Attack[Any]]
ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
INFORMED = [
    ("precode", "noise-inversion", 1),
    ("mixup", "mixup-inversion", 2),
    ("ats", "transform-inversion", 1),
]


@pytest.mark.parametrize(("defense", "attack", "batch"), INFORMED)
def test_informed_attacks_keep_the_contract(
    watched: Watched,
    attack_named: Named,
    left_alone: Callable[[Observation], AbstractContextManager[None]],
    defense: str,
    attack: str,
    batch: int,
) -> None:
    observation, _, _ = watched(knows=ALL, defenses=[{"name": defense}], federation={"batch_size": batch})
    method = attack_named(attack, max_iterations=6, restarts=2)
    steps: list[Step] = []
    with left_alone(observation):
        first = method(observation, seeding.generator(1, "attack"), steps.append)
    second = method(observation, seeding.generator(1, "attack"))
    assert torch.equal(first.inputs, second.inputs)
    assert first.inputs.shape == (batch, *observation.spec.shape)
    assert first.masks is not None
    assert [mask.shape for mask in first.masks] == [site.shape for site in observation.sites]
    assert [step.iteration for step in steps] == sorted(step.iteration for step in steps)
    assert all(step.iteration <= step.iterations for step in steps)
    unaware = replace(observation, threat=replace_knows(observation), known_methods=())
    with pytest.raises(NotApplicable, match="needs the threat model to grant defenses"):
        method(unaware, seeding.generator(1, "attack"))
    with pytest.raises(NotApplicable, match="no defense in use"):
        method(replace(observation, known_methods=()), seeding.generator(1, "attack"))


def replace_knows(observation: Observation) -> Any:
    knows = tuple(word for word in observation.threat.knows if word != "defenses")
    return observation.threat.model_copy(update={"knows": knows})
