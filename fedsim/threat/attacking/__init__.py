"""Running one attack: in this process, or in a process of its own that gets what the attacker sees and nothing else.

An attack cannot see by accident what the threat model does not grant. One that is hostile can, where it shares its
process with the scorer: `sys._getframe` and `gc` reach every object there. `processes.ISOLATED` keeps the truth out of
its process, and its process away from the run. Its module is imported by the run all the same, to read its settings,
and what it crafts for a malicious server is part of the world; code that acts there is not kept out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, reason
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, OnStep, Reconstruction, Step
from fedsim.scenario import AttackChoice


class Attacker(Protocol):
    """One attack at work on the victims of an arm."""

    def at_once(self, first: Observation) -> int:
        """Return how many observations like this one are best searched together, at least 1."""
        ...

    def search(
        self, seen: Sequence[Observation], generators: Sequence[torch.Generator], watch: OnStep
    ) -> list[Reconstruction] | str:
        """Return a guess for each observation, or why the attack failed.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
        """
        ...


ShouldStop = Callable[[], bool]
Attackers = Callable[[AttackChoice, int, ShouldStop], AbstractContextManager[Attacker]]
"""Gives out the attacker of a choice: with the seed of torch's global generator, and what says that it should stop."""


@dataclass(slots=True)
class Progress:
    """What an attack calls once an iteration. It reaches whoever watches, a stop flag, and nothing else.

    Attributes:
        is_single: whether every step counts; of several victims that step together, the first of an iteration does.
    """

    watch: OnStep
    should_stop: ShouldStop
    is_single: bool
    latest: int = 0

    def __call__(self, step: Step) -> None:
        """Show a step, and stop here if somebody asked for it."""
        if step.iteration != self.latest or self.is_single:
            self.watch(step)
        self.latest = step.iteration
        if self.should_stop():
            raise KeyboardInterrupt


def attempt(
    attack: Attack[Any],
    seen: Sequence[Observation],
    generators: Sequence[torch.Generator],
    watch: OnStep,
    should_stop: ShouldStop,
) -> list[Reconstruction] | str:
    """Return an attack's guess for each observation, or why it failed."""
    on_step = Progress(watch, should_stop, len(seen) == 1)
    try:
        found = list(attack.together(seen, generators, [on_step] * len(seen)))
        if len(found) != len(seen):
            raise FedsimError(f"the attack returned {len(found)} guesses for {len(seen)} updates.")
    except Exception as error:  # a method may raise anything
        return reason(error)
    return found


def together(attack: Attack[Any], first: Observation) -> int:
    """Return how many observations an attack takes at once; one where it cannot say."""
    try:
        return max(1, int(attack.at_once(first)))
    except Exception:  # the search will say what is wrong
        return 1


@dataclass(frozen=True)
class _Here:
    """An attack in this process."""

    attack: Attack[Any]
    should_stop: ShouldStop

    def at_once(self, first: Observation) -> int:
        return together(self.attack, first)

    def search(
        self, seen: Sequence[Observation], generators: Sequence[torch.Generator], watch: OnStep
    ) -> list[Reconstruction] | str:
        return attempt(self.attack, seen, generators, watch, self.should_stop)


@contextmanager
def in_process(choice: AttackChoice, seed: int, should_stop: ShouldStop) -> Iterator[Attacker]:
    """Yield the attack in this process."""
    with seeding.isolate_randomness(seed):
        yield _Here(choice.make("attack"), should_stop)
