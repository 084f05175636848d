"""A client's update in a scenario of a task whose labels are no classes, what an attack makes of it, and its scores."""

from collections.abc import Callable
from typing import Any

from fedsim.core import registry, seeding
from fedsim.core.types import Reconstruction, WireEntry
from fedsim.federation.client import local_training
from fedsim.record import VictimRecord
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim

Build = Callable[..., Scenario]
DENSE = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0, "bias": True}
BLIND = ("batch-size", "dropout-rates", "input-statistics")


def victim(build: Build, batch_size: int, **tables: Any) -> Victim:
    world = worlds.build(build(**{"model": DENSE, **tables}, federation={"clients": 4, "batch_size": batch_size}))
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth)


def attacked(one: Victim, attack: str, knows: tuple[str, ...] = BLIND, **settings: Any) -> Reconstruction:
    method = registry.get("attack", attack)
    made = method.make(method.config.model_validate(settings))
    return made(observe(one, knows), seeding.generator(0, "test"), lambda _step: None)  # type: ignore[arg-type]


def scored(one: Victim, guess: Reconstruction) -> VictimRecord:
    return score(one, guess).record
