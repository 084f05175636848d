"""Attacks that are stopped after a budget of processor seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from benchmarks._victims import Victim
from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Step
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore

EXACT = "updates with every image exact"
"""The name of the row that says how many updates came back exactly."""


class Outcome(NamedTuple):
    """What an attack came to within a budget.

    Attributes:
        worst: PSNR of the worst image in dB; 0 where the attack was stopped.
        seconds: of the processor.
        guess: None where the attack was stopped.
        is_exact: whether every image came back exactly.
    """

    worst: float
    seconds: float
    guess: Reconstruction | None
    is_exact: bool = False


class _OverError(Exception):
    """The budget is used up."""


def within(
    seconds: float, attack: Attack[Any], observation: Observation, generator: torch.Generator
) -> Reconstruction | None:
    """Return an attack's guess, or None if it was still at work at its first step after so many processor seconds.

    Raises:
        NotApplicable: the attack does not fit the observation.
    """
    end = time.process_time() + seconds

    def stop(_step: Step) -> None:
        if time.process_time() > end:
            raise _OverError

    try:
        return attack(observation, generator, stop)
    except _OverError:
        return None


def attack_within(seconds: float, attack: Attack[Any], victim: Victim, number: int) -> Outcome:
    """Attack one update, the `number`-th of several; an image that was not returned counts as a grey one.

    Raises:
        NotApplicable: the attack does not fit the update.
    """
    begin = time.process_time()
    guess = within(seconds, attack, victim.observation, seeding.generator(1, "attack", number))
    taken = time.process_time() - begin
    if guess is None:
        return Outcome(0.0, taken, None)
    items = items_of(guess, victim)
    return Outcome(worst_psnr(items), taken, guess, are_exact(items))


def items_of(guess: Reconstruction, victim: Victim) -> tuple[ItemScore, ...]:
    """Return the scores of each image of an update; one that was not returned counts as a grey one."""
    return score_items(complete(guess, len(victim.batch)), victim.batch, victim.spec).items


def worst_psnr(items: Iterable[ItemScore]) -> float:
    """Return the PSNR of the worst image in dB."""
    return min(item.values["psnr"] for item in items)


def are_exact(items: Iterable[ItemScore]) -> bool:
    """Say whether every image is exact: each pixel within half of one of 255 steps."""
    return all(item.values["exact_pixels"] > 0 for item in items)
