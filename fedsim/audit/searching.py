"""Searches of an audit: attack `auto`, restricted to a subset of attacks, with results that survive a time limit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedsim.audit.evidence import NO_GUESS
from fedsim.core import registry, seeding
from fedsim.core.best_step import guess_from_step
from fedsim.core.candidates import rank_candidates
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.core.types import Observation, Reconstruction, Step, Tensors
from fedsim.record import Ceiling
from fedsim.scenario.world import World

_ATTACK = "auto"
_LAST_GUESS = "the clock ended the search: this is the last guess of the attack that was running"
_READS = "word-readout"  # closed-form attack; its result is added to any guess


@dataclass
class LatestGuess:
    """Intermediate results of an update, used if the time limit interrupts its attack.

    Attributes:
        exact: guess of the exact attacks.
        step: latest step of the search.
        ceiling: result of the ideal attacker.
        known_map: map of the pixels known to the ideal attacker.
        read: word readout, added to any guess.
    """

    exact: Reconstruction | None = None
    step: Step | None = None
    ceiling: Ceiling | None = None
    known_map: Tensor | None = None
    read: Tensors = field(default_factory=dict[str, Tensor])

    def best(self, observation: Observation) -> Reconstruction | str:
        """Return the guess with the lower objective, or `NO_GUESS`."""
        if self.exact is not None and self.exact.is_exact:
            return self.exact
        if self.exact is not None and (self.step is None or self.exact.objective <= self.step.best):
            return replace(self.exact, stop_reason=OUT_OF_TIME)
        return NO_GUESS if self.step is None else replace(guess_from_step(observation, self.step), notes=(_LAST_GUESS,))


def search(
    world: World,
    observation: Observation,
    iterations: int,
    leave_out: Collection[str],
    round_: int,
    latest: LatestGuess,
) -> Reconstruction:
    """Return the best guess of all attacks except `leave_out`; `latest` records each step.

    Args:
        world: world of the update.
        observation: observation of the attacker.
        iterations: approximate number of gradients of a descent attack.
        leave_out: names of excluded attacks.
        round_: round of the update; determines the randomness.
        latest: receives every step.

    Raises:
        NotApplicable: no attack applies.
    """
    method = registry.get("attack", _ATTACK, Attack)
    settings = {
        "max_iterations": max(1, iterations),
        "mask_iterations": max(1, iterations // 10),
        "leave_out": tuple(sorted(leave_out)),
    }
    attack = method.make(method.config.model_validate(settings))

    def on_step(step: Step) -> None:
        latest.step = step

    seed = world.scenario.seed
    with seeding.isolate_randomness(seeding.derive(seed, "foreign to the audit", round_)):
        return attack(observation, seeding.generator(seed, "attack auto", round_, 0), on_step)


def read_words(world: World, observation: Observation, round_: int) -> Tensors:
    """Return the words of a text that gradient rows identify with certainty."""
    reader = registry.get("attack", _READS).derived_from(Attack)
    if reader is None or world.task.refuses_method(reader):
        return {}
    try:
        return search(world, observation, 1, registry.entries("attack").keys() - {_READS}, round_, LatestGuess()).extras
    except NotApplicable:
        return {}


def descents() -> dict[str, type[Attack[Any]]]:
    """Return the attacks that search by gradient descent, by name; no baselines."""
    methods = registry.methods("attack", Attack).items()
    attacks = {name: method.derived_from(Attack) for name, method in methods if method.tier != "baseline"}
    return {name: kind for name, kind in attacks.items() if kind is not None and kind.effort == "descent"}


def select_searches(observation: Observation, iterations: int) -> set[str]:
    """Return the cheapest applicable search and the attacks that undo known batch changes.

    All descent attacks if no search applies.

    Args:
        observation: observation of the attacker, without its unreliable tensors.
        iterations: approximate number of gradients of a search.
    """
    known = descents()
    undoing = {name for name, kind in known.items() if kind.inverts_augmentation}
    others = registry.entries("attack").keys() - known.keys()
    ranked = rank_candidates(observation, iterations, leave_out=others)
    first = next((candidate.name for candidate in ranked if not candidate.refusal(observation)), None)
    return set(known) if first is None else {first} | undoing
