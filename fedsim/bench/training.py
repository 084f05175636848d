"""Training of small masked diffusion models, once, stored in the user's cache.

The recipe is AdamW with a short warm-up and cosine decay to the last step. Clients of a scenario train on the same
task, with their own optimizer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsim.bench.descent import OnStep, TrainingStep, ignore_step, steps_left, train_once
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.nets import checkpoints
from fedsim.core.types import Batch, Dataset
from fedsim.data.list_operations import ListOperationsConfig, draw_lists

_WEIGHTS = "weights.pt"
_WARM_UP = 100
_OPERATIONS = (
    "copy",
    "reverse",
    "reverse",
    "sort",
    "replace-index",
    "replace-index",
    "replace-random",
    "shuffle",
)  # fmt: skip - slowly learnt operations are listed twice


@dataclass(frozen=True)
class Recipe:
    """Training recipe of a small model.

    Attributes:
        holds: description of the training data, for display.
        data: name of the data set.
        settings: settings of the data set.
        steps: optimizer steps.
        batch: examples per step.
        rate: maximum learning rate.
        model: settings of the model that differ from its defaults.
        minutes: expected core minutes.
    """

    holds: str
    data: str
    settings: Mapping[str, Any]
    steps: int
    batch: int = 64
    rate: float = 2e-3
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    minutes: float = field(default=1.0, repr=False)  # excluded from `repr`, which names the cache folder


RECIPES: Mapping[str, Recipe] = {
    "lists": Recipe(
        "operations on lists of 3 to 6 letters",
        "list-operations",
        {"operations": _OPERATIONS},
        steps=3000,
        minutes=6,
    ),
    "random-lists": Recipe(
        "shuffle and replace-random on lists of 3 and 4 letters",
        "list-operations",
        {"operations": ("shuffle", "shuffle", "replace-random"), "longest": 4},
        steps=6000,
        model={"width": 64, "hidden": 172},
        minutes=5,
    ),
    "news": Recipe(
        "bytes of news, 96 at a time",
        "lee-news",
        {"tokenizer": "bytes", "length": 96},
        steps=1500,
        batch=16,
        minutes=4,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, in evaluation mode, with its data."""

    model: nn.Module
    data: Dataset


def load_trained_model(name: str, on_step: OnStep = ignore_step) -> TrainedModel:
    """Return a small model; the first call trains it, for several minutes.

    Args:
        name: key of `RECIPES`.
        on_step: called after each step.

    Raises:
        FedsimError: unknown model, or the cache cannot be written.
        MissingExtra: a package with its data is not installed.
    """
    if name not in RECIPES:
        raise FedsimError(f"unknown small model '{name}'.{did_you_mean(name, RECIPES)}")
    recipe = RECIPES[name]
    source = registry.get("dataset", recipe.data)
    data = source.make(source.config.model_validate(dict(recipe.settings)))
    family = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(0):
        model = family.make(family.config.model_validate(dict(recipe.model)), data.spec)
    identity = hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]

    folder = train_once(
        f"tiny-llada-{name}-{identity}",
        recipe.minutes,
        lambda states: train(model, data, recipe, states, on_step),
        lambda folder: torch.save(model.state_dict(), folder / _WEIGHTS),
    )
    model.load_state_dict(torch.load(checkpoints.verify_checksum(folder / _WEIGHTS), weights_only=True))
    return TrainedModel(model.eval(), data)


def train(model: nn.Module, data: Dataset, recipe: Recipe, states: Path, on_step: OnStep) -> None:
    """Train a model by a recipe, in place, from the last saved state on."""
    method = registry.get("task", "masked-diffusion")
    task = method.make(method.config.model_validate({"stratified": True}))
    generator = seeding.generator(0, f"training {recipe.data}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, recipe.steps))
    model.train()
    parts = {"model": model, "optimizer": optimizer, "rates": rates}
    for step in steps_left(states, recipe.data, recipe.steps, generator, **parts):
        batch = _batch(data, recipe, generator)
        outputs, targets = task.answer(model, batch, task.named_draws(batch, generator))
        loss = task.loss(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        on_step(TrainingStep(recipe.data, step + 1, recipe.steps, loss.item()))
    model.eval()


def lengths(recipe: Recipe) -> range:
    """Return the lengths of the lists that a recipe trains on."""
    config = ListOperationsConfig.model_validate(dict(recipe.settings))
    return range(config.shortest, config.longest + 1)


def share_of_rate(step: int, steps: int, least: float = 0.02) -> float:
    """Return the learning rate relative to its maximum: linear warm-up, then cosine decay to `least`."""
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    done = min(1.0, (step - _WARM_UP) / max(1, steps - _WARM_UP))
    return cosine_decay(done, least)


def cosine_decay(done: float, last: float) -> float:
    """Return a cosine decay from 1 at `done` = 0 to `last` at `done` = 1."""
    return last + (1 - last) * (1 + math.cos(math.pi * done)) / 2


def _batch(data: Dataset, recipe: Recipe, generator: torch.Generator) -> Batch:
    """Return the batch of a step: newly sampled lists, or texts sampled from the training set."""
    if recipe.data == "list-operations":
        return draw_lists(ListOperationsConfig.model_validate(dict(recipe.settings)), recipe.batch, generator)
    return data.train.select(torch.randint(len(data.train), (recipe.batch,), generator=generator))
