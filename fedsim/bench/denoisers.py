"""Trains small diffusion models of images once, and keeps them in the user's cache.

The recipe is Adam with a warm-up and a cosine, and what is kept is an average of the weights over the last thousand
steps or so (EMA). Clients of a scenario train on the same task, with an optimizer of their own.
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

from fedsim.bench.descent import OnStep, TrainingStep, steps_left, train_once, unwatched
from fedsim.bench.training import share_of_rate
from fedsim.core import registry, seeding
from fedsim.core.denoisers import load_denoiser, save_denoiser
from fedsim.core.errors import FedsimError, nearest
from fedsim.core.types import Batch, Dataset
from fedsim.core.types.tasks import Task

CIFAR_VARIABLE = "FEDSIM_CIFAR10"
_LEAST_RATE = 0.05  # of the largest
_KEPT = 0.999  # share of the average that a step leaves, as the paper of EDM has it for small nets


@dataclass(frozen=True)
class DenoiserRecipe:
    """How one of the denoisers is trained.

    Attributes:
        holds: what it learns, for people.
        data: name of the data set.
        settings: of the data set.
        steps: of the optimizer.
        classes: whether it is told classes.
        tile: side of the square pieces that images are cut into; 0 for whole images.
        model: settings of the model that depart from its defaults.
        family: of the model.
        task: what it is trained to do.
        minutes: of a core.
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
    minutes: float = field(default=6.0, repr=False)  # what is kept in the cache is named by all else


def _patches(holds: str, overrides: Mapping[str, Any]) -> DenoiserRecipe:
    """Return the recipe of a model that draws patch by patch."""
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
    """A trained denoiser, in evaluation mode, with its data and the folder that holds it."""

    model: nn.Module
    data: Dataset
    folder: Path


def data_of(recipe: DenoiserRecipe) -> Dataset:
    """Return the data set of a recipe.

    Raises:
        FedsimError: photographs are asked for, and nobody says where they lie.
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


def trained(name: str, on_step: OnStep = unwatched) -> Denoiser:
    """Return a denoiser; the first call trains it, which takes minutes.

    Args:
        name: one of `RECIPES`.
        on_step: is called with every step.

    Raises:
        FedsimError: there is no such model, its data are not there, or the cache cannot be written.
        MissingExtra: a package with its data is not installed.
    """
    if name not in RECIPES:
        raise FedsimError(f"there is no small denoiser '{name}'.{nearest(name, RECIPES)}")
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
    """Return what the model of a recipe is trained to do."""
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
    """Return the set of the square pieces of all images, without overlap."""

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
    """Train a model by a recipe, in place, and the average of its weights that is kept; from the last saved state on.

    Args:
        model: with its first weights.
        average: a copy of it.
        data: what it learns from.
        recipe: how.
        states: beginning of the names of the files that hold states.
        on_step: is called with every step.
    """
    task = task_of(recipe)
    generator = seeding.generator(0, f"training {recipe.data}")
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, recipe.steps, _LEAST_RATE))
    model.train()
    parts = {"model": model, "average": average, "optimizer": optimizer, "rates": rates}
    for step in steps_left(states, recipe.data, recipe.steps, generator, **parts):
        batch = data.train.taken(torch.randint(len(data.train), (recipe.batch,), generator=generator))
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
    """Move an average towards a model."""
    for averaged, new in zip(average.parameters(), model.parameters(), strict=True):
        averaged.lerp_(new, 1 - kept)
