"""Who knows more of a client is no worse off. Driven by the registry: a new file is covered without a change here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack, Defense
from fedsim.core.types import Knowledge, Observation, Reconstruction, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.federating import scenario

Build = Callable[..., Scenario]
TRIED = ("closed-form-linear", "inverting-gradients", "mixup-inversion", "cutmix-inversion")
LEFT_OUT = tuple(name for name in registry.methods("attack", Attack) if name not in TRIED)
FEW = {"max_iterations": 2, "mask_iterations": 2, "leave_out": LEFT_OUT}
KNOWN: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics")
COUNTS_EQUATIONS = "gauss-newton"  # refuses where a known defense leaves too few, which it cannot see without
MODEL = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0, "bias": True}


def make(kind: registry.Kind, name: str) -> Any:
    """The method with its defaults; a setting without one takes its first example."""
    method = registry.get(kind, name)
    fields = method.config.model_fields
    needed = {key: own.examples[0] for key, own in fields.items() if own.is_required() and own.examples}
    return method.make(method.config.model_validate(needed))


VIEWS = {
    name: view
    for name in registry.methods("component")
    if (view := make("component", name).public_description()) is not None
} | {"distributed-dp": make("defense", "distributed-dp").adaptive_view()}  # its own world shows sums alone
DEFENSES = [name for name in registry.methods("defense", Defense) if name not in VIEWS]
NEEDED: dict[str, dict[str, Any]] = {
    "cvb": {"model": {"name": "lenet"}, "data": {"name": "digits", "size": 32}},
    "dp-sgd": {"federation": {"batch_size": 2, "sampling": "poisson"}},
}


def guess(observation: Observation) -> Reconstruction:
    method = registry.get("attack", "auto")
    attack = method.make(method.config.model_validate(FEW))
    return attack(observation, seeding.generator(1, "attack"))


def check_that_it_helps(without: Observation, informed: Observation) -> None:
    assert len(guess(without).inputs)
    found = guess(informed)
    assert len(found.inputs) or "the noise hides the gradient" in found.stop_reason
    assert not [note for note in found.notes if " failed: " in note]
    for name, method in registry.methods("attack", Attack).items():
        attack = method.make(method.config())
        refused = attack.applicable(without).holds and not attack.applicable(informed).holds
        assert not refused or name == COUNTS_EQUATIONS, name


def observed(world: worlds.World, *more: Knowledge) -> Observation:
    world.check()
    first = world.models.first_weights
    update, truth = local_training(world, first, 1, 0)
    return observe(Victim(world, WireEntry(1, 0, first, update), truth), (*KNOWN, *more))


@pytest.mark.parametrize("name", VIEWS)
def test_who_knows_a_component_still_guesses(name: str) -> None:
    without = observed(worlds.build(scenario(model=MODEL, federation={"batch_size": 2})))
    check_that_it_helps(without, replace(without, known_methods=(VIEWS[name],)))


@pytest.mark.parametrize("name", DEFENSES)
def test_who_knows_a_defense_still_guesses(name: str) -> None:
    tables = {"model": MODEL, "federation": {"batch_size": 4}, **NEEDED.get(name, {})}
    world = worlds.build(scenario(defenses=[{"name": name}], **tables))
    check_that_it_helps(observed(world), observed(world, "defenses"))
