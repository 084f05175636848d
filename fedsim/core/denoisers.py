"""Trained denoisers as folders: weights, settings of the model, and description of its images."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.nets import checkpoints
from fedsim.core.types import InputSpec

_WEIGHTS, _SETTINGS = "weights.pt", "settings.json"


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser in evaluation mode, the spec of its training images, and its model family."""

    model: nn.Module
    spec: InputSpec
    family: str = "edm-unet"


def save_denoiser(
    model: nn.Module, settings: Mapping[str, Any], spec: InputSpec, folder: Path, family: str = "edm-unet"
) -> None:
    """Write a model of a family with the settings that it was built with."""
    torch.save(model.state_dict(), folder / _WEIGHTS)
    images = {"shape": spec.shape, "classes": spec.classes, "mean": spec.mean, "std": spec.std}
    (folder / _SETTINGS).write_text(json.dumps({"family": family, "model": dict(settings), "images": images}, indent=1))


def load_denoiser(folder: Path) -> LoadedDenoiser:
    """Load a denoiser.

    Raises:
        FedsimError: the folder contains no denoiser.
    """
    try:
        kept = json.loads((folder / _SETTINGS).read_text())
        images = kept["images"]
        spec = InputSpec(tuple(images["shape"]), images["classes"], tuple(images["mean"]), tuple(images["std"]))
        name = kept.get("family", LoadedDenoiser.family)
        family = registry.get("model", name)
        with seeding.isolate_randomness(0):
            model = family.make(family.config.model_validate(kept["model"]), spec)
        weights = checkpoints.verify_checksum(folder / _WEIGHTS)
        model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise FedsimError(
            f"{folder} holds no trained denoiser: {error}. Give a folder that `fedsim bench model` names."
        ) from error
    return LoadedDenoiser(model.eval(), spec, name)


def find_denoiser(name: str, trainable: Sequence[str]) -> Path:
    """Return the folder of a denoiser, given by path or by its name in the cache.

    Args:
        name: a folder or a name.
        trainable: names that `fedsim bench model` trains and that are valid here.

    Raises:
        FedsimError: unknown denoiser.
    """
    if Path(name).is_dir():
        return Path(name)
    cache = checkpoints.cache()
    folders = cache.iterdir() if cache.is_dir() else ()
    pattern = rf"{re.escape(name)}-[0-9a-f]+"
    kept = sorted(folder for folder in folders if re.fullmatch(pattern, folder.name) and (folder / _SETTINGS).is_file())
    if not kept:
        command = f"`fedsim bench model {name}` trains it."
        advice = f"`fedsim bench model NAME` trains a denoiser.{did_you_mean(name, trainable)}"
        raise FedsimError(
            f"no trained denoiser '{name}': neither a folder, nor a name in the cache {cache}. "
            f"{command if name in trainable else advice}"
        )
    return kept[-1]
