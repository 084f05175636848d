"""What a denoising client's step, and a trained denoiser, give away.

Inversion: digits from one step of an untrained denoiser on one image, at several noise levels, by `denoiser-inversion`,
with level and noise granted, and searched. Members: which digits the denoiser of `fedsim bench model digits-unet` was
trained on, by its loss at single noise levels. Without ``--full`` 2 digits and 100 members, with it 4 and 300.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._denoising_client import client_step
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, averaged, measured, told_apart
from fedsim.bench.denoisers import RECIPES, data_of, task_of, trained
from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Dataset
from fedsim.metrics.image import psnr, to_pixels

LEVELS = (0.3, 1.0)
MEMBER_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
GRANTED_ITERATIONS, SEARCHED = 400, 600
SMALL = {"width": 8, "blocks": 1}


def invert(data: Dataset, level: float, number: int, *, grants_draws: bool, iterations: int) -> tuple[float, float]:
    """Return PSNR of the image, and the level found over the true one, of one step."""
    model = _model("edm-unet", SMALL, data, 0)
    batch = data.test.taken(torch.tensor([number]))
    client = client_step(model, data.spec, batch, number, level=level, grants_draws=grants_draws)
    method = _attack("denoiser-inversion", max_iterations=iterations, schedule="cosine")
    guess = method(client.observation, seeding.generator(number, "attack"))
    close = _close(guess.inputs, batch.inputs, data)
    return close, guess.facts.get("noise level found, of the first example", level) / level


@torch.no_grad()
def member_scores(level: float, count: int, draws: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return minus the loss at a level of images that the denoiser was trained on, and of others."""
    denoiser = trained("digits-unet")
    task = task_of(RECIPES["digits-unet"])
    scores = []
    for images in (denoiser.data.train, denoiser.data.test):
        part, source = images.taken(torch.arange(count)), torch.Generator().manual_seed(1)
        total = torch.zeros(count)
        for _ in range(draws):
            draws_of_part = {**task.named_draws(part, source), "task.level": torch.full((count,), level)}
            draws_of_part["task.unlabelled"] = torch.zeros(count, dtype=torch.bool)
            total -= task.losses(*task.answer(denoiser.model, part, draws_of_part))
        scores.append((total / draws).numpy())
    return scores[0], scores[1]


def _model(family: str, settings: Mapping[str, Any], data: Dataset, seed: int) -> torch.nn.Module:
    method = registry.get("model", family)
    with seeding.isolate_randomness(seed):
        return method.make(method.config.model_validate(dict(settings)), data.spec).train()


def _attack(name: str, **settings: Any) -> Attack[Any]:
    method = registry.get("attack", name)
    return method.make(method.config.model_validate(settings)).named(name)


def _close(guess: Tensor, image: Tensor, data: Dataset) -> float:
    return float(psnr(to_pixels(guess, data.spec), to_pixels(image, data.spec)))


@experiment("generative-privacy", minutes=10, page="attacks/denoiser-inversion")
def generative_privacy(budget: Budget) -> Cells:
    """Return a cell for each noise level of both parts."""
    digits, members = (4, 300) if budget.full else (2, 100)
    return {
        **{f"inversion, level {level:g}": partial(_inversion, level, digits) for level in LEVELS},
        **{f"members, level {level:g}": partial(_members, level, members) for level in MEMBER_LEVELS},
    }


def _inversion(level: float, count: int) -> Iterator[Row]:
    data, setting = data_of(RECIPES["digits-unet"]), f"level {level:g}"
    for name, known, iterations in (("granted", True, GRANTED_ITERATIONS), ("searched", False, SEARCHED)):
        pairs = [invert(data, level, number, grants_draws=known, iterations=iterations) for number in range(count)]
        yield averaged(f"PSNR, draws {name}", setting, [close for close, _ in pairs], "dB")
        if not known:
            yield measured("level of the guess over the true one", setting, [ratio for _, ratio in pairs], "")


def _members(level: float, count: int) -> Iterator[Row]:
    members, others = member_scores(level, count)
    yield told_apart("members told from others", f"level {level:g}", members.tolist(), others.tolist())
