"""Training of small image diffusion models, once, stored in the user's cache.

The recipe is Adam with warm-up and cosine decay; the stored weights are an exponential moving average (EMA) over about
the last thousand steps. Clients of a scenario train on the same task, with their own optimizer.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsim.bench.descent import OnStep, TrainingStep, ignore_step, steps_left, train_once
from fedsim.bench.training import share_of_rate
from fedsim.core import registry, seeding
from fedsim.core.denoisers import load_denoiser, save_denoiser
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.types import Batch, Dataset
from fedsim.core.types.tasks import Task

CIFAR_VARIABLE = "FEDSIM_CIFAR10"
_LEAST_RATE = 0.05  # relative to the maximum rate
_KEPT = 0.999  # EMA decay, as in the EDM paper for small networks


@dataclass(frozen=True)
class DenoiserRecipe:
    """Training recipe of a denoiser.

    Attributes:
        holds: description of the training data, for display.
        data: name of the data set.
        settings: settings of the data set.
        steps: optimizer steps.
        batch: examples per step.
        rate: maximum learning rate.
        classes: whether the model is class-conditional.
        tile: side of the square tiles that images are cut into; 0 for whole images.
        model: settings of the model that differ from its defaults.
        family: model family.
        task: training task.
        minutes: expected core minutes.
    """

    holds: str
    data: str
    settings: Mapping[str, Any]
    steps: int
    batch: int = 32
    rate: float = 2e-3
    classes: bool = True
    tile: int = 0
    model: Mapping[str, Any] = field(default_factory=lambda: {"width": 24})
    family: str = "edm-unet"
    task: str = "denoising"
    minutes: float = field(default=6.0, repr=False)  # excluded from `repr`, which names the cache folder


def _patches(holds: str, overrides: Mapping[str, Any]) -> DenoiserRecipe:
    """Return the recipe of a patch-by-patch model."""
    settings = {"model": {}, "steps": 1500, "family": "patch-diffusion", "task": "next-patch", "minutes": 1.5}
    return DenoiserRecipe(holds, **{**settings, **overrides})


_DIGITS: Mapping[str, Any] = {"data": "mnist5k", "settings": {"size": 16}}
_TILES: Mapping[str, Any] = {"data": "cifar10", "settings": {}, "classes": False, "tile": 16}
_DRAFT: Mapping[str, Any] = {
    "model": {"width": 64, "blocks": 1, "hidden": 128, "head_width": 64, "head_layers": 2},
    "minutes": 0.5,
}

_ANY_ORDER: Mapping[str, Any] = {"order": "random", "variance": "learned"}

RECIPES: Mapping[str, DenoiserRecipe] = {
    "digits-unet": DenoiserRecipe("MNIST digits of 16 x 16 pixels", "mnist5k", {"size": 16}, steps=2000),
    "photographs-unet": DenoiserRecipe(
        f"tiles of 16 x 16 pixels of CIFAR-10 photographs, from the copy that {CIFAR_VARIABLE} names",
        "cifar10",
        {},
        steps=2000,
        classes=False,
        tile=16,
    ),
    "digits-patches": _patches("MNIST digits of 16 x 16 pixels, patch by patch", _DIGITS),
    "digits-patches-draft": _patches("the same in a smaller model, which drafts", {**_DIGITS, **_DRAFT}),
    "digits-in-any-order": _patches(
        "MNIST digits of 16 x 16 pixels, patch by patch in any order, with learned variances",
        {**_DIGITS, "model": _ANY_ORDER},
    ),
    "digits-in-any-order-draft": _patches(
        "the same in a smaller model, which drafts", {**_DIGITS, **_DRAFT, "model": {**_DRAFT["model"], **_ANY_ORDER}}
    ),
    "photographs-patches": _patches("tiles of CIFAR-10 photographs, patch by patch", _TILES),
    "photographs-patches-draft": _patches("the same in a smaller model, which drafts", {**_TILES, **_DRAFT}),
}


@dataclass(frozen=True)
class Denoiser:
    """A trained denoiser in evaluation mode, with its data and its folder."""

    model: nn.Module
    data: Dataset
    folder: Path


def data_of(recipe: DenoiserRecipe) -> Dataset:
    """Return the data set of a recipe.

    Raises:
        FedsimError: photographs are needed, and their location is not set.
        MissingExtra: a package with the data is not installed.
    """
    settings = dict(recipe.settings)
    if recipe.data == "cifar10":
        place = os.environ.get(CIFAR_VARIABLE)
        if not place:
            raise FedsimError(
                f"this model learns from CIFAR-10, which is not in any package. Set {CIFAR_VARIABLE} to your own copy: "
                "a torchvision root that holds cifar-10-batches-py, or a .npz pack of JPEG files."
            )
        settings["path"] = Path(place)
    source = registry.get("dataset", recipe.data)
    data = source.make(source.config.model_validate(settings))
    return _cut(data, recipe.tile) if recipe.tile else data


def load_trained_denoiser(name: str, on_step: OnStep = ignore_step) -> Denoiser:
    """Return a denoiser; the first call trains it, for several minutes.

    Args:
        name: key of `RECIPES`.
        on_step: called after each step.

    Raises:
        FedsimError: unknown model, its data is missing, or the cache cannot be written.
        MissingExtra: a package with its data is not installed.
    """
    if name not in RECIPES:
        raise FedsimError(f"unknown small denoiser '{name}'.{did_you_mean(name, RECIPES)}")
    recipe = RECIPES[name]
    data = data_of(recipe)
    identity = hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]

    model = build(recipe, data)
    average = copy.deepcopy(model).requires_grad_(False)
    folder = train_once(
        f"{name}-{identity}",
        recipe.minutes,
        lambda states: train(model, average, data, recipe, states, on_step),
        lambda folder: save_denoiser(average, _settings(recipe), data.spec, folder, recipe.family),
    )
    return Denoiser(load_denoiser(folder).model, data, folder)


def task_of(recipe: DenoiserRecipe) -> Task[Any]:
    """Return the training task of a recipe."""
    method = registry.get("task", recipe.task)
    in_order = {"order": recipe.model["order"]} if "order" in recipe.model else {}
    return method.make(method.config.model_validate({"classes": recipe.classes, **in_order}))


def build(recipe: DenoiserRecipe, data: Dataset) -> nn.Module:
    """Return the untrained model of a recipe."""
    family = registry.get("model", recipe.family)
    with seeding.isolate_randomness(0):
        return family.make(family.config.model_validate(_settings(recipe)), data.spec)


def _settings(recipe: DenoiserRecipe) -> dict[str, Any]:
    return {"classes": recipe.classes, **recipe.model}


def _cut(data: Dataset, side: int) -> Dataset:
    """Cut all images into square tiles without overlap."""

    def cut(batch: Batch) -> Batch:
        pieces = batch.inputs.unfold(2, side, side).unfold(3, side, side)  # (N, C, rows, columns, side, side)
        count = pieces.shape[2] * pieces.shape[3]
        inputs = pieces.permute(0, 2, 3, 1, 4, 5).reshape(-1, batch.inputs.shape[1], side, side)
        return Batch(inputs, batch.labels.repeat_interleave(count))

    spec = replace(data.spec, shape=(data.spec.shape[0], side, side))
    return replace(data, train=cut(data.train), test=cut(data.test), spec=spec, users=None)


def train(
    model: nn.Module, average: nn.Module, data: Dataset, recipe: DenoiserRecipe, states: Path, on_step: OnStep
) -> None:
    """Train a model and its EMA in place, from the last saved state on.

    Args:
        model: model with initial weights.
        average: copy of the model, which becomes the EMA.
        data: training data.
        recipe: training recipe.
        states: path prefix of the state files.
        on_step: called after each step.
    """
    task = task_of(recipe)
    generator = seeding.generator(0, f"training {recipe.data}")
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, recipe.steps, _LEAST_RATE))
    model.train()
    parts = {"model": model, "average": average, "optimizer": optimizer, "rates": rates}
    for step in steps_left(states, recipe.data, recipe.steps, generator, **parts):
        batch = data.train.select(torch.randint(len(data.train), (recipe.batch,), generator=generator))
        loss = task.loss(*task.answer(model, batch, task.named_draws(batch, generator)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        _follow(average, model, min(_KEPT, (step + 1) / (step + 10)))
        on_step(TrainingStep(recipe.data, step + 1, recipe.steps, loss.item()))


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, kept: float) -> None:
    """Update the EMA of a model."""
    for averaged, new in zip(average.parameters(), model.parameters(), strict=True):
        averaged.lerp_(new, 1 - kept)
