"""Searches under several hypotheses about what the client did, one after the other; the lowest objective decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from attacks.gradient_matching._engine import Found
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.types import Observation, OnStep, Step

ConfigT = TypeVar("ConfigT", bound=MatchingConfig)


def descended_each(
    hypotheses: Sequence[MatchingAttack[ConfigT]],
    observations: Sequence[Observation],
    labels: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    on_steps: Sequence[OnStep],
) -> tuple[list[Found], str]:
    """Return the ends of all rows, and the name of the path that compared their gradients.

    A row of hypothesis i gets as its start the number i trials + its trial.
    """
    rows: list[Found] = []
    path = ""
    for index, hypothesis in enumerate(hypotheses):
        trials, iterations = hypothesis.config.trials, hypothesis.config.iterations
        shifted = [_shifted(on_step, index * trials, index * iterations, len(hypotheses)) for on_step in on_steps]
        found, path = hypothesis.descended(observations, labels, generators, shifted)
        for row in found:
            row.start += index * trials
        rows += found
    return rows, path


def _shifted(on_step: OnStep, start: int, earlier: int, hypotheses: int) -> OnStep:
    return lambda step: on_step(
        replace(
            step,
            restart=start + step.restart,
            iteration=earlier + step.iteration,
            iterations=hypotheses * step.iterations,
        )
    )


def continued(on_step: OnStep, restart: int, before: int, iterations: int) -> OnStep:
    """Return what tells `on_step` of a part of the search, after `before` iterations of all."""

    def told(step: Step) -> None:
        place = step.iteration + before
        on_step(replace(step, restart=step.restart + restart, iteration=place, iterations=iterations))

    return told
