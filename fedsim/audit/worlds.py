"""Turn an audited subject into the world of a scenario with one client, so that all mechanics of fedsim apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import ValidationError

from fedsim.audit.record import AuditPlan
from fedsim.audit.subject import Checked
from fedsim.core.devices import find_device
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense, Optimizer
from fedsim.core.types import Knowledge
from fedsim.scenario import Choice, Scenario
from fedsim.scenario.data import Data
from fedsim.scenario.stack import Stack
from fedsim.scenario.world import World

ROUNDS = 20  # rounds of a training; private mechanisms spread their budget over them


@dataclass(frozen=True)
class DefenseSetting:
    """A change of the subject's client: one more defense, or none.

    Attributes:
        name: name of the defense; empty: none.
        options: its settings that differ from the defaults.
        sampling: how batches are drawn; some private mechanisms need Poisson sampling.
    """

    name: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    sampling: Literal["passes", "poisson"] = "passes"

    @property
    def label(self) -> str:
        """The defense and its settings that differ from the defaults, as text."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options)])

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The defense as tables of a scenario."""
        return [{"name": self.name, **dict(self.options)}] if self.name else []


AS_IT_IS = DefenseSetting()
_WHOLE_STEP = {"name": "sgd", "learning_rate": 1.0}


def world_of(subject: Checked, plan: AuditPlan, batch_size: int, setting: DefenseSetting = AS_IT_IS) -> World:
    """Return the world of one client that owns all the subject's examples.

    Args:
        subject: the checked subject.
        plan: holds the attacker's knowledge.
        batch_size: examples per step, at most as many as the client owns; under Poisson sampling the expectation.
        setting: change of the subject's client.

    Raises:
        FedsimError: a method or setting is unknown, or the client owns too few examples.
    """
    owned = len(subject.dataset.train)
    if subject.is_scored and batch_size > owned:
        raise FedsimError(
            f"batch {batch_size} is more than the {owned} examples of the client. Choose a smaller --batch, or let the "
            "loader yield more."
        )
    scenario = _scenario(subject, plan, batch_size, setting)
    return World(
        scenario=scenario,
        data=Data(subject.dataset, (torch.arange(max(owned, batch_size)),), scenario.federation, scenario.seed),
        stack=Stack(
            components=(),
            defenses_as_written=tuple(choice.make("defense") for choice in scenario.defenses),
            optimizer=_optimizer(scenario.federation.optimizer),
            server_optimizer=_optimizer(scenario.aggregation.optimizer),
            aggregation=scenario.aggregation,
            criterion=subject.loss,
        ),
        own_model=subject.new_model,
    )


def check(world: World, subject: Checked) -> None:
    """Check that the defenses fit.

    Raises:
        FedsimError: one does not fit; the message says why.
    """
    world.check()
    for defense in world.stack.defenses:
        if not subject.is_cross_entropy and (defense.needs_step or defense.overrides("on_examples")):
            raise FedsimError(f"defense '{defense.name}' computes cross-entropy, but the loss is another.")


def _scenario(subject: Checked, plan: AuditPlan, batch_size: int, setting: DefenseSetting) -> Scenario:
    client = subject.subject
    optimizer = {"name": client.optimizer, "learning_rate": client.learning_rate}
    knows: list[Knowledge] = list(plan.knows)
    try:
        return Scenario.model_validate(
            {
                "title": f"audit of {plan.target}",
                "seed": plan.seed,
                "device": find_device(plan.device).type,
                "model": {"name": plan.target},
                "federation": {
                    "algorithm": "fedsgd" if client.local_steps == 1 else "fedavg",
                    "clients": 1,
                    "rounds": ROUNDS,
                    "batch_size": batch_size,
                    "sampling": setting.sampling,
                    "local_steps": client.local_steps,
                    "optimizer": optimizer,
                },
                "aggregation": {"name": "mean", "optimizer": optimizer if client.local_steps == 1 else _WHOLE_STEP},
                "defenses": [*client.defenses, *setting.tables],
                "threat": {"knows": knows},
                "scoring": plan.scoring.model_dump(),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise FedsimError(f"{plan.target}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def _optimizer(choice: Choice) -> Optimizer[Any]:
    try:
        made = choice.make("component")
    except ValidationError as error:
        raise FedsimError(f"optimizer '{choice.name}': {error.errors()[0]['msg']}.") from error
    if not isinstance(made, Optimizer):
        raise FedsimError(f"'{choice.name}' is not an optimizer.")
    return made


def reads_steps(setting: DefenseSetting) -> bool:
    """Return whether a defense changes local training, not only what is sent."""
    made = _defense(setting)
    return made.needs_step or any(made.overrides(moment) for moment in ("prepare", "on_batch", "on_examples", "loss"))


def settings_of(setting: DefenseSetting) -> dict[str, Any]:
    """Return all settings of a defense, including defaults."""
    return _defense(setting).config.model_dump(mode="json")


def _defense(setting: DefenseSetting) -> Defense[Any]:
    return Choice(name=setting.name, settings=dict(setting.options)).make("defense")
