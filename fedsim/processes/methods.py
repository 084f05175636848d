"""Calls of a method in this process, or in a subprocess that receives only the attacker's observation.

An attack cannot see data beyond its grants by accident. A hostile attack in the scorer's process can: `sys._getframe`
and `gc` reach every object of the process. `start_in_subprocess` keeps the ground truth out of the attack's process,
and this process away from the run. The run still imports the attack's module to read its settings, and weights crafted
for a malicious server are computed in the run; code that acts at these moments is not isolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, reason
from fedsim.core.hooks import Attack, ConfiguredMethod
from fedsim.core.types import Observation, OnStep, Reconstruction, Step

AnswerT = TypeVar("AnswerT")


def ignore_step(_step: Step) -> None:
    """Do nothing."""


def never_stop() -> bool:
    """Return False: no stop is requested."""
    return False


class MethodRunner(Protocol):
    """A method at work."""

    def call(
        self,
        function: Callable[..., AnswerT],
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> AnswerT:
        """Return the answer of a method's function. Nothing guarantees the type of a hostile method's answer.

        Args:
            function: function of the method's base class; the method's own function of this name is called.
            seen: its visible arguments, which come first.
            generators: its randomness, the last arguments; for `Attack.together`, a generator per observation.
            watch: receives the steps of a search.
            seconds: processor time of a search for each observation; None: unlimited.

        Raises:
            KeyboardInterrupt: a stop was requested.
            Exception: the method failed; it may raise anything.
        """
        ...


ShouldStop = Callable[[], bool]
Start = Callable[[Choice, ShouldStop], AbstractContextManager[MethodRunner]]
"""Starts an attack for as long as the block lasts. Records are the same wherever attacks run."""


@dataclass(slots=True)
class Progress:
    """Callback of an attack's iterations. It reaches a watcher and a stop flag, and no other object.

    Attributes:
        is_single: whether every step is reported; of victims that step together, only the first step of an iteration
            is.
    """

    watch: OnStep
    should_stop: ShouldStop
    is_single: bool
    latest: int = 0

    def __call__(self, step: Step) -> None:
        """Report a step; raise if a stop was requested."""
        if step.iteration != self.latest or self.is_single:
            self.watch(step)
        self.latest = step.iteration
        if self.should_stop():
            raise KeyboardInterrupt


@dataclass(frozen=True)
class InProcessRunner:
    """A method in this process. Its draws from torch's global generator follow from its own generators."""

    method: ConfiguredMethod[Any]
    should_stop: ShouldStop = never_stop

    def call(
        self,
        function: Callable[..., AnswerT],
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> AnswerT:
        """Return the answer of a method's function."""
        seed = seeding.derive(generators[0].initial_seed(), "foreign to a method") if generators else 0
        own = getattr(self.method, function.__name__)
        with seeding.isolate_randomness(seed):
            if function.__name__ != Attack.together.__name__:
                return own(*seen, *generators)
            on_step = Progress(watch, self.should_stop, len(generators) == 1)
            return own(*seen, generators, [on_step] * len(generators), seconds)


@contextmanager
def start_in_process(choice: Choice, should_stop: ShouldStop) -> Iterator[MethodRunner]:
    """Yield an attack in this process."""
    yield InProcessRunner(choice.make("attack"), should_stop)


def search(
    attack: MethodRunner,
    seen: Sequence[Observation],
    generators: Sequence[torch.Generator],
    watch: OnStep = ignore_step,
    seconds: float | None = None,
) -> list[Reconstruction] | str:
    """Return an attack's guess for each observation, or the reason of its failure.

    Args:
        attack: the running method.
        seen: observation of each update.
        generators: its randomness, a generator per observation.
        watch: receives its steps.
        seconds: processor time for each observation; None: unlimited.

    Raises:
        KeyboardInterrupt: a stop was requested.
    """
    try:
        guesses = list(attack.call(Attack.together, list(seen), generators=generators, watch=watch, seconds=seconds))
        if len(guesses) != len(seen):
            raise FedsimError(f"the attack returned {len(guesses)} guesses for {len(seen)} updates.")
        strange = [type(guess).__name__ for guess in guesses if not isinstance(guess, Reconstruction)]
        if strange:
            raise FedsimError(f"the attack returned a {strange[0]}, expected a Reconstruction.")
    except Exception as error:  # a method may raise anything
        return reason(error)
    return guesses


def require_tensor(answer: object) -> Tensor:
    """Return an answer that must be a tensor.

    Raises:
        FedsimError: it is something else.
    """
    if isinstance(answer, Tensor):
        return answer
    raise FedsimError(f"its answer is a {type(answer).__name__}, expected a tensor.")


def max_victims(attack: MethodRunner, first: Observation) -> int:
    """Return the number of such observations that an attack processes together; 1 if it raises."""
    try:
        return max(1, int(attack.call(Attack.max_victims, first)))
    except Exception:  # the search will report the error
        return 1
