"""Small networks, and their equations solved."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attacks.core.labels import labels_of
from attacks.second_order._equations import Equations
from attacks.second_order._layout import UnknownsLayout, masks_to_solve
from fedsim.core import registry, seeding
from fedsim.core.types import Observation, Reconstruction, Truth
from tests.attacks.solving import answer
from tests.attacks.solving import toy as any_toy

NAME = "gauss-newton"
ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
SMOOTH = {"name": "mlp", "width": 24, "depth": 2, "activation": "sigmoid", "bias": True, "dropout": 0.0}


def toy(*args: Any, **settings: Any) -> tuple[Observation, Truth]:
    """Random inputs are no images: a standard deviation of a tenth leaves room for them in the pixel range."""
    observation, truth = any_toy(*args, **settings)
    return replace(observation, spec=replace(observation.spec, std=(0.1,) * len(observation.spec.std))), truth


def lenet(channels: int = 1, side: int = 28, width: int = 12, rate: float = 0.0, activation: Any = nn.Sigmoid):
    """The LeNet of the literature on gradient inversion: strides 2, 2 and 1."""
    with seeding.isolate_randomness(0):
        return nn.Sequential(
            *(nn.Conv2d(channels, width, 5, 2, 2), activation(), nn.Conv2d(width, width, 5, 2, 2), activation()),
            *(nn.Conv2d(width, width, 5, 1, 2), activation(), nn.Flatten(), nn.Dropout(rate)),
            nn.Linear(width * (-(-side // 4)) ** 2, 10),
        )


def solve(observation: Observation, **settings: Any) -> Reconstruction:
    method = registry.get("attack", NAME)
    return answer(method.make(method.config.model_validate(settings)), observation)


def equations_of(observation: Observation) -> Equations:
    return Equations(observation, UnknownsLayout(observation, masks_to_solve(observation)), labels_of(observation))


def distances(guess: Reconstruction, truth: Truth) -> Tensor:
    """Root mean square error of each image at its closest guess of the same label."""
    batch = truth.batches[0]
    errors = (batch.inputs[:, None] - guess.inputs[None]).square().flatten(2).mean(2).sqrt()
    return errors.masked_fill(batch.labels[:, None] != guess.labels[None], math.inf).min(1).values
