"""Encodings of several rounds under random signs, solved together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.federating import scenario, watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
MLP = {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0, "bias": True}


@pytest.fixture
def rounds() -> Callable[..., list[Observation]]:
    """What one client with eight digits sends in some rounds under InstaHide, each observed with those before it."""

    def build(numbers: range, *knows: Any) -> list[Observation]:
        world = worlds.build(
            scenario(
                model=MLP,
                data={"name": "mnist5k"},
                partition={"scheme": "resampled", "examples_per_client": 8},
                federation={"batch_size": 4, "rounds": 8},
                defenses=[{"name": "instahide"}],
            )
        )
        seen = []
        for number in numbers:
            update, truth = local_training(world, world.models.first_weights, number, 1)
            seen.append((WireEntry(number, 1, world.models.first_weights, update), truth))
        return [
            observe(Victim(world, *one), (*KNOWN, *knows), [Victim(world, *before) for before in seen[:place]])
            for place, one in enumerate(seen)
        ]

    return build


def test_the_regression_over_rounds_gives_every_image_of_the_batch(rounds: Callable[..., list[Observation]]) -> None:
    *_, latest = rounds(range(1, 5), "defenses", "earlier-rounds")
    method = registry.get("attack", "instahide-regression")
    attack = method.make(method.config())
    steps: list[Any] = []
    first = attack(latest, seeding.generator(1, "attack"), steps.append)
    assert first.inputs.shape == (4, *latest.spec.shape)
    assert torch.equal(first.labels, latest.labels)
    assert len(steps) == 1
    plain, _, _ = watched(knows=(*KNOWN, "defenses", "earlier-rounds"))
    with pytest.raises(NotApplicable, match="no defense in use mixes examples under random signs"):
        attack(plain, seeding.generator(1, "attack"))
