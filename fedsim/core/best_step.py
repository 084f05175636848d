"""The best step of a search that its budget ends. A search may catch `DeadlineReached` to return a better result."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field

from fedsim.core.time_budget import OUT_OF_TIME, DeadlineReached, current_budget
from fedsim.core.types import NO_LABEL, Config, Observation, OnStep, Reconstruction, Step


class TimedConfig(Config):
    """Settings of work with a time limit."""

    seconds: float | None = Field(
        default=None, gt=0, description="of the processor, after which the answers so far count; absent: no limit"
    )


class BestStep:
    """Step callback that forwards steps, stores the step with the lowest objective, and enforces the deadline.

    The deadline is that of the block in which the object was created.
    """

    def __init__(self, on_step: OnStep) -> None:
        """Set the callback to which steps are forwarded."""
        self._on_step = on_step
        self._budget = current_budget()
        self._best: Step | None = None

    def __call__(self, step: Step) -> None:
        """Forward a step.

        Raises:
            DeadlineReached: the deadline has passed.
        """
        self._on_step(step)
        if self._best is None or step.objective <= self._best.objective:
            self._best = step
        self._budget.check()

    def guess(self, observation: Observation) -> Reconstruction:
        """Return the best step as a guess, without examples if there was no step."""
        return guess_from_step(observation, self._best)


def search_until_deadline(
    search: Callable[[OnStep], Reconstruction], observation: Observation, on_step: OnStep
) -> Reconstruction:
    """Run a search, and return its result, or its best step if the deadline ended it."""
    best = BestStep(on_step)
    try:
        return search(best)
    except DeadlineReached:
        return best.guess(observation)


def guess_from_step(observation: Observation, step: Step | None) -> Reconstruction:
    """Return the guess of a search that was ended at a step.

    Labels are the granted labels, or unknown. Without a step the guess has no examples.
    """
    if step is None:
        nothing = torch.zeros(0, *observation.spec.shape, dtype=observation.spec.dtype)
        return Reconstruction.of(nothing, objective=math.inf, stop_reason=OUT_OF_TIME)
    inputs, granted = step.guess.detach().clone(), observation.labels
    is_known = granted is not None and len(granted) == len(inputs)
    labels = granted if granted is not None and is_known else torch.full((len(inputs),), NO_LABEL)
    return Reconstruction.of(
        inputs, labels, objective=step.objective, iterations=step.iteration, stop_reason=OUT_OF_TIME
    )
