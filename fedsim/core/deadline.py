"""Processor seconds that a search, or the answer to a question, may take. Then what was found so far counts.

`limited` sets the end for what runs inside it; blocks may be nested, and the nearest end counts. A search asks
`seconds_left`, or is ended at its next step: the `on_step` that it calls raises `DeadlineReached`. It may catch that to
return more than its latest step, since otherwise the best step is the guess. Work in parts calls `check_time` between
them.
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
"""Why a search stopped that its deadline ended."""

_end: ContextVar[float] = ContextVar("end of the search, on the clock of the processor", default=math.inf)


class DeadlineReached(BaseException):
    """The processor seconds are over. No `Exception`, since who expects any failure must not take it for one."""


class TimedConfig(Config):
    """Settings of work that a deadline may end."""

    seconds: float | None = Field(
        default=None, gt=0, description="of the processor, after which the answers so far count; absent: no limit"
    )


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Let what runs inside take so many processor seconds, those of processes that it starts too; None sets no end."""
    end = math.inf if seconds is None else processor_seconds(is_fresh=True) + seconds
    token = _end.set(min(end, _end.get()))
    try:
        yield
    finally:
        _end.reset(token)


def seconds_left() -> float:
    """Return the processor seconds until the nearest end, at least 0; infinite where none is set."""
    end = _end.get()
    return end if math.isinf(end) else max(0.0, end - processor_seconds())


def check_time() -> None:
    """Go on only where time is left.

    Raises:
        DeadlineReached: no time is left.
    """
    if seconds_left() == 0.0:
        raise DeadlineReached(OUT_OF_TIME)


class BestStep:
    """An `on_step` that passes steps on, keeps the one of the lowest objective, and ends the search at its deadline.

    That is the deadline under which it was made.
    """

    def __init__(self, on_step: OnStep) -> None:
        """Pass steps on to `on_step`."""
        self._on_step = on_step
        self._end = _end.get()
        self._best: Step | None = None

    def __call__(self, step: Step) -> None:
        """Pass a step on.

        Raises:
            DeadlineReached: no time is left.
        """
        self._on_step(step)
        if self._best is None or step.objective <= self._best.objective:
            self._best = step
        if not math.isinf(self._end) and processor_seconds() >= self._end:
            raise DeadlineReached(OUT_OF_TIME)

    def guess(self, observation: Observation) -> Reconstruction:
        """Return the best step as a guess, without examples where there was no step."""
        return guess_of(observation, self._best)


def best_in_time(
    search: Callable[[OnStep], Reconstruction], observation: Observation, on_step: OnStep
) -> Reconstruction:
    """Return what a search returns, or its best step where the nearest deadline ends it."""
    best = BestStep(on_step)
    try:
        return search(best)
    except DeadlineReached:
        return best.guess(observation)


def guess_of(observation: Observation, step: Step | None) -> Reconstruction:
    """Return the guess of a step of a search that its deadline ended.

    Labels are granted ones, or else unknown. Without a step the guess has no examples.
    """
    if step is None:
        nothing = torch.zeros(0, *observation.spec.shape, dtype=observation.spec.dtype)
        return Reconstruction.of(nothing, objective=math.inf, stopped=OUT_OF_TIME)
    inputs, granted = step.guess.detach().clone(), observation.labels
    is_known = granted is not None and len(granted) == len(inputs)
    labels = granted if granted is not None and is_known else torch.full((len(inputs),), NO_LABEL)
    return Reconstruction.of(inputs, labels, objective=step.objective, iterations=step.iteration, stopped=OUT_OF_TIME)
