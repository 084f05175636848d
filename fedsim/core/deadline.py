"""CPU time limits of searches and questions. After the limit, the results so far count.

`limited` sets a limit for a block; in nested blocks the earliest deadline applies. A search polls `seconds_left`, or is
ended at its next step: its `on_step` raises `DeadlineReached`. The search may catch it to return a better result;
otherwise its best step is the guess. Work in several parts calls `check_time` between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from pydantic import Field

from fedsim.core.processor_time import processor_seconds
from fedsim.core.types import NO_LABEL, Config, Observation, OnStep, Reconstruction, Step

OUT_OF_TIME = "out of time"
"""Stop reason of a search that reached its deadline."""

_end: ContextVar[float] = ContextVar("end of the search, on the clock of the processor", default=math.inf)


class DeadlineReached(BaseException):
    """The CPU time limit is exceeded. Not an `Exception`, so that `except Exception` cannot swallow it."""


class TimedConfig(Config):
    """Settings of work with a time limit."""

    seconds: float | None = Field(
        default=None, gt=0, description="of the processor, after which the answers so far count; absent: no limit"
    )


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Limit the CPU seconds of a block, including the processes that it starts; None sets no limit."""
    end = math.inf if seconds is None else processor_seconds(is_fresh=True) + seconds
    token = _end.set(min(end, _end.get()))
    try:
        yield
    finally:
        _end.reset(token)


def seconds_left() -> float:
    """Return the CPU seconds until the earliest deadline, at least 0; infinite without a deadline."""
    end = _end.get()
    return end if math.isinf(end) else max(0.0, end - processor_seconds())


def check_time() -> None:
    """Raise if the deadline has passed.

    Raises:
        DeadlineReached: the deadline has passed.
    """
    if seconds_left() == 0.0:
        raise DeadlineReached(OUT_OF_TIME)


class BestStep:
    """Step callback that forwards steps, stores the step with the lowest objective, and enforces the deadline.

    The deadline is that of the block in which the object was created.
    """

    def __init__(self, on_step: OnStep) -> None:
        """Set the callback to which steps are forwarded."""
        self._on_step = on_step
        self._end = _end.get()
        self._best: Step | None = None

    def __call__(self, step: Step) -> None:
        """Forward a step.

        Raises:
            DeadlineReached: the deadline has passed.
        """
        self._on_step(step)
        if self._best is None or step.objective <= self._best.objective:
            self._best = step
        if not math.isinf(self._end) and processor_seconds() >= self._end:
            raise DeadlineReached(OUT_OF_TIME)

    def guess(self, observation: Observation) -> Reconstruction:
        """Return the best step as a guess, without examples if there was no step."""
        return guess_of(observation, self._best)


def best_in_time(
    search: Callable[[OnStep], Reconstruction], observation: Observation, on_step: OnStep
) -> Reconstruction:
    """Run a search, and return its result, or its best step if the deadline ended it."""
    best = BestStep(on_step)
    try:
        return search(best)
    except DeadlineReached:
        return best.guess(observation)


def guess_of(observation: Observation, step: Step | None) -> Reconstruction:
    """Return the guess of a search that was ended at a step.

    Labels are the granted labels, or unknown. Without a step the guess has no examples.
    """
    if step is None:
        nothing = torch.zeros(0, *observation.spec.shape, dtype=observation.spec.dtype)
        return Reconstruction.of(nothing, objective=math.inf, stopped=OUT_OF_TIME)
    inputs, granted = step.guess.detach().clone(), observation.labels
    is_known = granted is not None and len(granted) == len(inputs)
    labels = granted if granted is not None and is_known else torch.full((len(inputs),), NO_LABEL)
    return Reconstruction.of(inputs, labels, objective=step.objective, iterations=step.iteration, stopped=OUT_OF_TIME)
