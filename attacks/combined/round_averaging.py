"""Round averaging: noise that is drawn anew for the same batch averages out over the rounds.

A client that sends the gradient of the same batch n times at weights that hardly move, each with independent noise of
standard deviation s, has sent their mean with noise s / sqrt(n). The mean of the gradients is that at the mean of the
weights, up to second order in how far these moved. Any other attack then works on the mean update and the mean weights,
and is told the smaller noise. Differential privacy states what this costs: epsilon grows with every round.

Threat model: honest-but-curious server that keeps what a client sent in earlier attacked rounds. It takes rounds whose
weights lie near the latest ones, and whose labels are the same where it knows them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field

from attacks.core.preconditions import one_gradient_only
from fedsim.core import registry
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, Observation, OnStep, PublicKnowledge, Reconstruction


class RoundAveragingConfig(Config):
    """Settings of round averaging."""

    attack: str = Field(default="auto", description="the attack on the mean update")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that attack")
    movement: float = Field(
        default=0.05, gt=0, description="largest distance of a round's weights to the latest, in units of their norm"
    )


@final
@attack("round-averaging", summary="averages noise over rounds of the same batch, then attacks", related="1906.08935")
class RoundAveraging(Attack[RoundAveragingConfig]):
    """A mean in front of another attack."""

    effort: ClassVar[Effort] = "reference"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"earlier-rounds"})
    over_rounds: ClassVar[bool] = True

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Average, then attack the mean."""
        method = registry.get("attack", self.config.attack)
        try:
            inner: Attack[Any] = method.make(method.config.model_validate(self.config.options))
        except ValueError as error:
            raise FedsimError(f"attack 'round-averaging': settings of '{method.name}': {error}") from error
        if isinstance(inner, RoundAveraging):
            raise NotApplicable("it cannot average for itself: set `attack` to another one")
        mean, rounds = averaged(observation, self.config.movement)
        found = inner(mean, generator, on_step)
        notes = (f"the mean of {rounds} rounds, attacked by {method.name}", *found.notes)
        return replace(found, notes=notes, facts={**found.facts, "rounds averaged": float(rounds)})


def averaged(observation: Observation, movement: float) -> tuple[Observation, int]:
    """Return an observation of the mean update at the mean weights, and the number of rounds behind it.

    Args:
        observation: the latest, with earlier ones.
        movement: rounds whose weights are further from the latest, in units of their norm, are left out.
    """
    alike = [before for before in observation.earlier if _is_alike(observation, before, movement)]
    rounds = [*alike, observation]
    model = copy.deepcopy(observation.model)
    states = [one.model.state_dict() for one in rounds]
    model.load_state_dict({
        name: torch.stack([state[name] for state in states]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in states[-1].items()
    })  # fmt: skip
    tensors = {
        name: torch.stack([one.update.tensors[name] for one in rounds]).mean(0) for name in observation.update.tensors
    }
    return (
        replace(
            observation,
            model=model,
            update=replace(observation.update, tensors=tensors),
            public=_quieter(observation.public, len(rounds)),
            earlier=(),
        ),
        len(rounds),
    )


def _is_alike(latest: Observation, before: Observation, movement: float) -> bool:
    if latest.labels is not None and before.labels is not None:
        ours, theirs = latest.labels.sort().values, before.labels.sort().values
        if not torch.equal(ours, theirs):
            return False
    pairs = [
        (p.detach(), q.detach()) for p, q in zip(latest.model.parameters(), before.model.parameters(), strict=True)
    ]
    moved = math.hypot(*(float((p - q).norm()) for p, q in pairs))
    return moved <= movement * math.hypot(*(float(p.norm()) for p, _ in pairs))


def _quieter(public: Sequence[PublicKnowledge], rounds: int) -> tuple[PublicKnowledge, ...]:
    """Return the descriptions with the noise of a mean."""
    factor = rounds**-0.5
    return tuple(
        replace(known, facts={k: v * factor if k == "noise_scale" else v for k, v in known.facts.items()})
        for known in public
    )
