"""World of an audited subject: a scenario with a single client, so that all parts of fedsim apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError

from fedsim.audit.record import AuditPlan, Sampling
from fedsim.audit.subject import CheckedSubject
from fedsim.core.devices import find_device
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Optimizer
from fedsim.core.types import Knowledge
from fedsim.scenario import Choice, Scenario
from fedsim.scenario.data import Data
from fedsim.scenario.stack import HookSet
from fedsim.scenario.world import World

ROUNDS = 20  # rounds of a training; private mechanisms divide their budget among them


_WHOLE_STEP = {"name": "sgd", "learning_rate": 1.0}


def world_of(
    subject: CheckedSubject,
    plan: AuditPlan,
    batch_size: int,
    more_arms: Sequence[Mapping[str, Any]] = (),
    sampling: Sampling | None = None,
) -> World:
    """Return the world of a single client that owns all the subject's examples.

    Args:
        subject: the checked subject.
        plan: source of the attacker's knowledge.
        batch_size: examples per step, at most the client's number of examples; under Poisson sampling the expected
            number.
        more_arms: defenses in addition to the subject's own, as tables of a scenario.
        sampling: batch sampling; by default the subject's. Some private mechanisms need Poisson sampling.

    Raises:
        FedsimError: a method or setting is unknown, or the client owns too few examples.
    """
    rows_of_one = subject.subject.rows_of_one
    owned = len(subject.dataset.train) // rows_of_one
    if subject.is_scored and batch_size > owned:
        raise FedsimError(
            f"batch {batch_size} is more than the {owned} examples of the client. Choose smaller --batch-sizes, or let "
            "the loader yield more."
        )
    share = torch.arange(rows_of_one * max(owned, batch_size))
    if rows_of_one > 1:
        share = share.view(-1, rows_of_one)
    scenario = _scenario(subject, plan, batch_size, more_arms, sampling or subject.subject.sampling)
    return World(
        scenario=scenario,
        data=Data(subject.dataset, (share,), scenario.federation, scenario.seed),
        stack=HookSet(
            components=(),
            defenses_as_written=tuple(choice.make("defense") for choice in scenario.defenses),
            optimizer=_optimizer(scenario.federation.optimizer),
            server_optimizer=_optimizer(scenario.aggregation.optimizer),
            aggregation=scenario.aggregation,
            criterion=subject.loss,
        ),
        own_model=subject.new_model,
    )


def check(world: World, subject: CheckedSubject) -> None:
    """Check that the defenses fit the world and the loss.

    Raises:
        FedsimError: a defense does not fit; the message states the reason.
    """
    world.check()
    for defense in world.stack.defenses:
        if not subject.is_cross_entropy and (defense.needs_step or defense.overrides("on_examples")):
            raise FedsimError(f"defense '{defense.name}' computes cross-entropy, but the loss is another.")


def _scenario(
    subject: CheckedSubject,
    plan: AuditPlan,
    batch_size: int,
    more_arms: Sequence[Mapping[str, Any]],
    sampling: Sampling,
) -> Scenario:
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
                    "sampling": sampling,
                    "local_steps": client.local_steps,
                    "optimizer": optimizer,
                },
                "aggregation": {"name": "mean", "optimizer": optimizer if client.local_steps == 1 else _WHOLE_STEP},
                "defenses": [*client.defenses, *more_arms],
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
