"""An attack attempt on a drawn digit, shown while it runs on the live page and in the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Config, Step
from fedsim.demo.recording import agreement
from fedsim.demo.victim import CLASSES, SIDE, Attacker, Setting, attack_of, name_of, observe_client, world_around
from fedsim.metrics.image import psnr, to_pixels
from fedsim.scenario.world import World

_EVERY_SECONDS = 0.05
_WHITE = 255.0

Tell = Callable[[str, dict[str, Any]], None]


class ViewerOrder(Config):
    """A viewer's order.

    Attributes:
        pixels: pixels of the drawing, line by line, from 0 (black) to 255.
    """

    pixels: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=SIDE * SIDE, max_length=SIDE * SIDE)
    label: int = Field(ge=0, lt=CLASSES)
    attacker: Attacker = "estimates"
    setting: Setting = Setting()


def attempt(order: ViewerOrder, iterations: int, tell: Tell) -> None:
    """Compute a client's gradient of the drawing; solve for the drawing in closed form, then search for it.

    A process runs a single attempt at a time: attacks check torch's global generator, which threads share.

    Args:
        order: the drawing and the setting.
        iterations: largest number of iterations of the search.
        tell: called with ``result`` or ``failure`` once per attack, and with ``step`` during the search. An exception
            that it raises ends the attack.

    Raises:
        FedsimError: the digits, needed for their normalisation, are not installed, or an attack has a defect.
    """
    image = torch.tensor(order.pixels, dtype=torch.float32).reshape(SIDE, SIDE) / _WHITE
    world = world_around(image, order.label, order.setting)
    for attacker in _attackers(order):
        observation, truth = observe_client(world, attacker)
        begin = time.perf_counter()
        attack = attack_of(attacker, 1, iterations)
        generator = seeding.generator(world.scenario.seed, f"demo {attacker}")
        try:
            reconstruction = attack(
                observation, generator, _Steps(world, image, tell) if attacker != "exact" else _ignore_step
            )
        except NotApplicable as error:
            tell("failure", {"attacker": attacker, "why": str(error)})
            continue
        seconds = time.perf_counter() - begin
        result = {
            "attacker": attacker,
            "name": name_of(attacker, 1),
            "seconds": seconds,
            "iterations": reconstruction.iterations,
            "objective": _finite(reconstruction.objective),
            "stopped": reconstruction.stop_reason,
            "agreement": agreement(world, reconstruction, truth, torch.arange(1)),
        }
        tell("result", {**result, **_encode_guess(world, image, reconstruction.inputs)})


def _attackers(order: ViewerOrder) -> Iterator[Attacker]:
    yield "exact"
    if order.attacker != "exact":
        yield order.attacker


def _ignore_step(_step: Step) -> None:
    """Do nothing: a closed form has no steps to show."""


class _Steps:
    """Reports the first step, and then a step every twentieth of a second."""

    def __init__(self, world: World, image: Tensor, tell: Tell) -> None:
        self._world, self._image, self._tell = world, image, tell
        self._last = -math.inf

    def __call__(self, step: Step) -> None:
        time_now = time.monotonic()
        if time_now - self._last < _EVERY_SECONDS:
            return
        self._last = time_now
        progress = {"iteration": step.iteration, "iterations": step.iterations, "objective": _finite(step.objective)}
        self._tell("step", {**progress, **_encode_guess(self._world, self._image, step.guess)})


def _finite(value: float) -> float | None:
    """Return the value, or None if JSON cannot represent it (NaN, infinity)."""
    return value if math.isfinite(value) else None


def _encode_guess(world: World, image: Tensor, guess: Tensor) -> dict[str, Any]:
    pixels = to_pixels(guess.detach(), world.data.dataset.spec)
    return {
        "pixels": (pixels * _WHITE).round().int().flatten().tolist(),
        "psnr": float(psnr(pixels, image.reshape(pixels.shape))),
    }
