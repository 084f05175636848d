"""Calling a method: in this process, or in one of its own that gets what the attacker sees and nothing else.

An attack cannot see by accident what the threat model does not grant. One that is hostile can, where it shares its
process with the scorer: `sys._getframe` and `gc` reach every object there. `apart.start_apart` keeps the truth out of
its process, and its process away from the run. Its module is imported by the run all the same, to read its settings,
and what it crafts for a malicious server is part of the world; code that acts there is not kept out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, reason
from fedsim.core.hooks import ConfiguredMethod
from fedsim.core.registry import Kind
from fedsim.core.types import Observation, OnStep, Reconstruction, Step


def ignore_step(_step: Step) -> None:
    """Show a step to nobody."""


def never() -> bool:
    """Say that nobody asked to stop."""
    return False


class AtWork(Protocol):
    """A method at work."""

    def call(
        self,
        name: str,
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> Any:
        """Return what a function of the method answers.

        Args:
            name: of the function.
            seen: what it may see: its first arguments.
            generators: its randomness: its last arguments, or of ``together`` one an observation.
            watch: is shown the steps of a search.
            seconds: of the processor that a search may take for each observation; None: as many as it takes.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            Exception: the method failed; it may raise anything.
        """
        ...


ShouldStop = Callable[[], bool]
Start = Callable[[Kind, Choice, ShouldStop], AbstractContextManager[AtWork]]
"""Starts a method of a kind for as long as the block lasts. Records are the same wherever methods run."""


@dataclass(slots=True)
class Progress:
    """What an attack calls once an iteration. It reaches a watcher, a stop flag, and nothing else.

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


@dataclass(frozen=True)
class Here:
    """A method in this process. What it draws from torch's global generator follows from its own generators."""

    method: ConfiguredMethod[Any]
    should_stop: ShouldStop = never

    def call(
        self,
        name: str,
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> Any:
        """Return what a function of the method answers."""
        seed = seeding.derive(generators[0].initial_seed(), "foreign to a method") if generators else 0
        function = getattr(self.method, name)
        with seeding.isolate_randomness(seed):
            if name != "together":
                return function(*seen, *generators)
            on_step = Progress(watch, self.should_stop, len(generators) == 1)
            return function(*seen, generators, [on_step] * len(generators), seconds)


@contextmanager
def start_here(kind: Kind, choice: Choice, should_stop: ShouldStop) -> Iterator[AtWork]:
    """Yield a method in this process."""
    yield Here(choice.make(kind), should_stop)


def search(
    attack: AtWork,
    seen: Sequence[Observation],
    generators: Sequence[torch.Generator],
    watch: OnStep = ignore_step,
    seconds: float | None = None,
) -> list[Reconstruction] | str:
    """Return an attack's guess for each observation, or why it failed.

    Args:
        attack: at work.
        seen: what it sees of each update.
        generators: its randomness, one an observation.
        watch: is shown its steps.
        seconds: of the processor that it may take for each; None: as many as it takes.

    Raises:
        KeyboardInterrupt: somebody asked to stop.
    """
    try:
        guesses = list(attack.call("together", list(seen), generators=generators, watch=watch, seconds=seconds))
        if len(guesses) != len(seen):
            raise FedsimError(f"the attack returned {len(guesses)} guesses for {len(seen)} updates.")
        strange = [type(guess).__name__ for guess in guesses if not isinstance(guess, Reconstruction)]
        if strange:
            raise FedsimError(f"the attack returned a {strange[0]}, expected a Reconstruction.")
    except Exception as error:  # a method may raise anything
        return reason(error)
    return guesses


def tensor_of(answer: object) -> Tensor:
    """Return an answer that must be a tensor.

    Raises:
        FedsimError: it is something else.
    """
    if isinstance(answer, Tensor):
        return answer
    raise FedsimError(f"its answer is a {type(answer).__name__}, expected a tensor.")


def at_once(attack: AtWork, first: Observation) -> int:
    """Return how many observations like this one an attack takes at once; one where it cannot say."""
    try:
        return max(1, int(attack.call("at_once", first)))
    except Exception:  # the search will say what is wrong
        return 1
