"""The demo's victim and attackers: a client's gradient, under a setting that a viewer chooses."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.hooks import Attack
from fedsim.core.types import Batch, Config, Knowledge, Observation, Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario, parse
from fedsim.scenario.world import World, build
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

Protection = Literal["none", "noise", "pruning", "precode"]
Attacker = Literal["ignores", "estimates", "knows", "exact"]
Pictures = Literal["digits", "photographs"]

SIDE = 28
CLASSES = 10
_SEED = 7
_DATA: dict[Pictures, dict[str, Any]] = {
    "digits": {"name": "mnist5k"},
    "photographs": {"name": "foolbox-samples", "collection": "imagenet", "size": 48},
}
_CLIENTS: dict[Pictures, int] = {"digits": 10, "photographs": 4}  # five of the twenty photographs each
_KNOWS: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


class Setting(Config):
    """A viewer's choice of the client."""

    rate: float = Field(default=0.5, ge=0, le=0.9, description="dropout rate p")
    batch: int = Field(default=1, ge=1, le=8, description="images behind the gradient")
    protection: Protection = "none"
    noise: float = Field(
        default=1.0, gt=0, le=100, description="standard deviation in units of each layer's root mean square"
    )


def world_of(setting: Setting, pictures: Pictures = "digits") -> World:
    """Return the world of a setting: pictures and an untrained network of three hidden layers.

    Raises:
        MissingExtra: the pictures are not installed.
    """
    return _world(pictures, **dict(setting))


@lru_cache(maxsize=2)
def _world(pictures: Pictures, **setting: Any) -> World:
    return build(_scenario(Setting(**setting), pictures))


def label_names(pictures: Pictures, labels: Tensor) -> tuple[str, ...]:
    """Return the names of classes: digits or ImageNet classes."""
    if pictures == "digits":
        return tuple(map(str, labels.tolist()))
    from torchvision.models import ResNet18_Weights  # noqa: PLC0415 - its import takes a second

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return tuple(names[label] for label in labels.tolist())


def world_around(image: Tensor, label: int, setting: Setting) -> World:
    """Return a world with a single client that owns a single image.

    Args:
        image: pixels in [0, 1], shape (28, 28).
        label: digit of the image.
        setting: the client's setting, with batch size 1.

    Raises:
        MissingExtra: the digits, needed for their normalisation, are not installed.
    """
    world = world_of(setting)
    spec = world.data.dataset.spec
    inputs = ((image - spec.mean[0]) / spec.std[0]).reshape(1, *spec.shape)
    batch = Batch(inputs, torch.tensor([label]))
    dataset = replace(world.data.dataset, train=batch, test=batch, users=None)
    return replace(build(world.scenario), data=replace(world.data, dataset=dataset, shares=(torch.tensor([0]),)))


def granted_knowledge(attacker: Attacker) -> tuple[Knowledge, ...]:
    """Return the attacker's knowledge besides the gradient and the model."""
    return (*_KNOWS, "masks") if attacker == "knows" else _KNOWS


def observe_client(world: World, attacker: Attacker, client: int = 0, round_: int = 1) -> tuple[Observation, Truth]:
    """Let a client compute its gradient, and return the observation and the truth."""
    received = world.models.first_weights
    update, truth = local_training(world, received, round_, client)
    return observe(
        Victim(world, WireEntry(round_, client, received, update), truth), granted_knowledge(attacker)
    ), truth


def attack_of(attacker: Attacker, batch: int, iterations: int) -> Attack[Any]:
    """Return the attack of a button; the three searches share iterations, schedule and sign."""
    method = registry.get("attack", name_of(attacker, batch))
    settings: dict[str, Any] = {}
    if attacker != "exact":
        settings = {"max_iterations": iterations, "schedule": "cosine", "sign": "soft"}
    if attacker == "estimates":
        settings |= {"first_masks": "mean", "mask_learning_rate": 0.2}
    return method.make(method.config.model_validate(settings))


def name_of(attacker: Attacker, batch: int) -> str:
    """Return the name of an attacker's method, as `fedsim show` knows it."""
    if attacker == "exact":
        return "closed-form-linear" if batch == 1 else "sparse-dictionary"
    return {"ignores": "inverting-gradients", "estimates": "dropout-inversion", "knows": "wiig"}[attacker]


def _scenario(setting: Setting, pictures: Pictures) -> Scenario:
    protections: dict[Protection, list[dict[str, Any]]] = {
        "none": [],
        "noise": [
            {"name": "clipping", "norm": 1.0},
            {"name": "gradient-noise", "scale": setting.noise, "relative": True},
        ],
        "pruning": [{"name": "pruning", "rate": 0.9}],
        "precode": [{"name": "precode", "latent": 64}],
    }
    raw = {
        "title": "demo",
        "seed": _SEED,
        "data": _DATA[pictures],
        "model": {"name": "mlp", "width": 256, "depth": 3, "dropout": setting.rate},
        "federation": {"clients": _CLIENTS[pictures], "batch_size": setting.batch},
        "defenses": protections[setting.protection],
    }
    return parse(raw, "the demo")
