"""Attacks that are stopped after a budget of processor seconds."""

from __future__ import annotations

import time
from typing import Any

import torch

from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Step


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
