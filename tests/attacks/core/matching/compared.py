"""Observations by hand, and their gradients compared."""

from collections.abc import Callable

from fedsim.core.types import (
    Observation,
    Truth,
)
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
