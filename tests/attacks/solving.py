"""Runs of attacks in tests, with a generator of a fixed seed."""

from collections.abc import Callable

import torch

from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction


def answer(attack: Attack, observation: Observation, seed: int = 0) -> Reconstruction:
    """Return what an attack makes of an observation."""
    return attack(observation, torch.Generator().manual_seed(seed))


def solve(
    attack_named: Callable[..., Attack], name: str, observation: Observation, seed: int = 0, **config: object
) -> Reconstruction:
    """Return what an attack of this name makes of an observation, with these settings."""
    return answer(attack_named(name, **config), observation, seed)
