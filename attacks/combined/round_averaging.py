"""round-averaging: average the gradients of the same batch over rounds, then attack the mean with its smaller noise.

Idea: a client that sends the gradient of one batch in n rounds, with independent noise of standard deviation s,
    reveals the gradient with noise s / sqrt(n). Differential privacy states this loss: epsilon grows with every round.
Equation: mean of g_r = g(mean of the weights) + N(0, s^2 / n), up to second order in the movement of the weights.
Assumes: honest-but-curious server that keeps earlier attacked rounds (`earlier-rounds`). Only rounds with weights near
    the latest and, where known, with the same labels are used. The assumptions of `attack` apply.
Recovers: as the attack on the mean.
Fails: clients with more than one batch, unless labels distinguish the batches; weights that move.
Source: this project; the noise is the defense of Zhu et al. 2019, arXiv 1906.08935.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field

from attacks.core.inner_attack import inner_attack
from attacks.core.preconditions import one_gradient_only
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, MethodDescription, Observation, OnStep, Reconstruction
from fedsim.core.types.effects import AddedNoise, Effect


class RoundAveragingConfig(Config):
    """Settings of round averaging."""

    attack: str = Field(default="auto", description="the attack on the mean update")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that attack")
    movement: float = Field(
        default=0.05, gt=0, description="largest distance of a round's weights from the latest, relative to their norm"
    )


@final
@attack(
    "round-averaging",
    summary="averages noise over rounds of the same batch, then attacks",
    tier="core",
    related="1906.08935",
)
class RoundAveraging(Attack[RoundAveragingConfig]):
    """Averages rounds, then runs another attack."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"earlier-rounds"})
    uses_earlier_rounds: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "federation": {"rounds": 2, "batch_size": 1},
        "defenses": [{"name": "gradient-noise", "scale": 1e-3}],
        "threat": {"rounds": [1, 2]},
        "attacks": [{"attack": "closed-form-linear"}],
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Average, then attack the mean."""
        inner = inner_attack("round-averaging", self.config.attack, self.config.options)
        if isinstance(inner, RoundAveraging):
            raise NotApplicable("'attack' names this attack itself: set it to another attack")
        mean, rounds = average(observation, self.config.movement)
        guess = inner(mean, generator, on_step)
        notes = (f"the mean of {rounds} rounds, attacked by {inner.name}", *guess.notes)
        return replace(guess, notes=notes, diagnostics={**guess.diagnostics, "rounds averaged": float(rounds)})


def average(observation: Observation, movement: float) -> tuple[Observation, int]:
    """Return an observation of the mean update at the mean weights, and the number of averaged rounds.

    Args:
        observation: the latest observation, with the earlier observations.
        movement: largest relative distance of a round's weights from the latest; other rounds are left out.
    """
    alike = [before for before in observation.earlier_observations if _is_alike(observation, before, movement)]
    rounds = [*alike, observation]
    model = observation.working_copy()
    states = [round_.model.state_dict() for round_ in rounds]
    model.load_state_dict({
        name: torch.stack([state[name] for state in states]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in states[-1].items()
    })  # fmt: skip
    tensors = {
        name: torch.stack([round_.update.tensors[name] for round_ in rounds]).mean(0)
        for name in observation.update.tensors
    }
    return (
        replace(
            observation,
            model=model,
            update=replace(observation.update, tensors=tensors),
            known_methods=_quieter(observation.known_methods, len(rounds)),
            earlier_observations=(),
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


def _quieter(public: Sequence[MethodDescription], rounds: int) -> tuple[MethodDescription, ...]:
    """Return the descriptions of defenses with the noise of a mean over rounds."""
    return tuple(
        replace(known, effects=tuple(_average_noise(effect, rounds) for effect in known.effects)) for known in public
    )


def _average_noise(effect: Effect, rounds: int) -> Effect:
    return replace(effect, scale=effect.scale * rounds**-0.5) if isinstance(effect, AddedNoise) else effect
