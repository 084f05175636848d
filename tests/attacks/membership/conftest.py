"""A small federation that overfits, with shadow models for whoever wants them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fedsim.core import registry
from fedsim.core.types import Batch
from fedsim.experiment import runner
from fedsim.federation.journal import ServerLog
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, Shadow, ShadowPlan, Target
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.replay import replay

TABLES: dict[str, Any] = {
    "title": "t",
    "seed": 3,
    "data": {"name": "tests.attacks.membership.noisy_digits:load"},
    "model": {"name": "mlp", "width": 64, "depth": 1, "dropout": 0.0},
    "federation": {
        "algorithm": "fedavg",
        "clients": 4,
        "rounds": 5,
        "batch_size": 8,
        "local_epochs": 8,
        "optimizer": {"name": "sgd", "learning_rate": 0.2},
    },
    "threat": {"rounds": [1, 5]},
    "membership": {"candidates": 150, "attacks": [{"name": "loss-threshold"}]},
}

# Few enough examples a client that the rank leaves room beside them, and an adapter in front of everything else.
ADAPTERS: dict[str, Any] = {
    **TABLES,
    "federation": {**TABLES["federation"], "rounds": 1, "local_epochs": 1},
    "components": [{"name": "lora", "targets": ["1"], "rank": 48}],
    "threat": {"rounds": [1]},
    "membership": {"candidates": 40, "attacks": [{"name": "adapter-certificate"}]},
}

# Texts with masked places, learned by heart.
MASKED: dict[str, Any] = {
    **TABLES,
    "task": "masked-diffusion",
    "data": {"name": "tests.attacks.membership.letters:load"},
    "model": {"name": "tiny-llada", "width": 32, "hidden": 64, "blocks": 1},
    "federation": {
        "algorithm": "fedavg",
        "clients": 1,
        "rounds": 1,
        "batch_size": 16,
        "local_epochs": 100,
        "optimizer": {"name": "adam", "learning_rate": 0.01},
    },
    "threat": {"rounds": [1]},
    "membership": {"candidates": 48, "attacks": [{"name": "masked-loss"}]},
}

FITTING = {"adapter-certificate": ADAPTERS, "masked-loss": MASKED}
"""Federations of attacks that do not fit the usual one."""


@dataclass
class Trained:
    """A trained federation and its cases."""

    world: World
    journal: ServerLog
    cases: dict[Target, membership.Case]
    shadows: dict[tuple[Any, ...], tuple[Shadow, ...]] = field(default_factory=dict)

    def seen(self, attack: MembershipAttack[Any]) -> MembershipObservation:
        """The observation of the attack's target."""
        return self.with_shadows(attack, self.cases[attack.target].observation, "own")

    def of_strangers(self, attack: MembershipAttack[Any]) -> MembershipObservation:
        """The same with candidates none of whom anybody trained on: the test set, or those that shadow models know."""
        case = self.cases[attack.target]
        if attack.plan() is None:
            return replace(case.observation, candidates=self.world.data.dataset.test)
        both, others = case.observation.candidates, ~case.is_member
        strangers = Batch(both.inputs[others], both.labels[others])
        return self.with_shadows(attack, replace(case.observation, candidates=strangers), "strangers")

    def with_shadows(
        self, attack: MembershipAttack[Any], observation: MembershipObservation, key: str
    ) -> MembershipObservation:
        plan: ShadowPlan | None = attack.plan()
        if plan is None:
            return observation
        if (key, plan) not in self.shadows:
            self.shadows[key, plan] = membership.shadows(observation, plan, 0, lambda _: None)
        return replace(observation, shadows={plan: self.shadows[key, plan]})


def federated(tables: dict[str, Any]) -> Trained:
    world = worlds.build(parse(tables, "test"))
    journal = runner.train(world, lambda _: None)
    truths = [replay(world, entry).truth for entry in journal.entries]
    wanted = tables["membership"]["candidates"]
    return Trained(
        world,
        journal,
        {
            "model": membership.observe_model(world, journal, wanted),
            "update": membership.observe_updates(world, journal, truths, wanted),
        },
    )


@pytest.fixture(scope="session")
def trained() -> Trained:
    return federated(TABLES)


@pytest.fixture(scope="session")
def trained_for(trained: Trained) -> Callable[[str], Trained]:
    """The federation that an attack fits."""
    others: dict[int, Trained] = {}

    def build(name: str) -> Trained:
        if name not in FITTING:
            return trained
        key = id(FITTING[name])
        if key not in others:
            others[key] = federated(FITTING[name])
        return others[key]

    return build


@pytest.fixture(scope="session")
def attack_of() -> Callable[..., MembershipAttack[Any]]:
    def build(name: str, **settings: object) -> MembershipAttack[Any]:
        method = registry.get("attack", name)
        return method.make(method.config.model_validate(settings))

    return build
