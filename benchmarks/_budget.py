"""Attacks that are stopped after a budget of processor seconds."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch

from benchmarks._victims import Victim
from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Step
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete


class Outcome(NamedTuple):
    """What an attack came to within a budget.

    Attributes:
        worst: PSNR of the worst image in dB; 0 where the attack was stopped.
        seconds: of the processor.
        guess: None where the attack was stopped.
    """

    worst: float
    seconds: float
    guess: Reconstruction | None


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
    return Outcome(worst_psnr(guess, victim), taken, guess)


def worst_psnr(guess: Reconstruction, victim: Victim) -> float:
    """Return the PSNR of the worst image in dB; one that was not returned counts as a grey one."""
    items = score_items(complete(guess, len(victim.batch)), victim.batch, victim.spec).items
    return min(item.values["psnr"] for item in items)
