"""Clients that paste boxes, observed."""

from typing import Any

import torch

from attacks.core.matching.unknowns import Values
from fedsim.core.types import Observation, Truth
from fedsim.scenario.world import World
from tests.federating import watched

KNOWN = ("batch-size", "dropout-rates", "input-statistics", "components", "labels")


def observed(client: int, *granted: str, **changes: Any) -> tuple[Observation, Truth, World]:
    cutmix = {"name": "cutmix", "probability": 1.0, **changes.pop("cutmix", {})}
    tables = {
        "model": {"name": "convnet", "dropout": 0.0},
        "data": {"name": "mnist5k"},
        "federation": {"clients": 50, "batch_size": 2, **changes.pop("federation", {})},
        "partition": {"scheme": "resampled", "examples_per_client": 2},
        "components": [cutmix],
    }
    return watched(client=client, knows=(*KNOWN, *granted), **{**tables, **changes})


def on_maps(
    examples: int, *granted: str, at: str, passes: int = 1, per_sample: bool
) -> tuple[Observation, Truth, World]:
    size = {"1": [28, 28], "3": [14, 14]}[at]
    return watched(
        client=1,
        knows=(*KNOWN, *granted),
        model={"name": "convnet", "dropout": 0.0},
        data={"name": "mnist5k"},
        federation={"clients": 50, "batch_size": examples, "algorithm": "fedavg", "local_epochs": passes},
        partition={"scheme": "resampled", "examples_per_client": examples},
        components=[{"name": "feature-cutmix", "at": at, "size": size, "probability": 1.0, "per_sample": per_sample}],
    )


def pasted(boxes: torch.Tensor, partners: torch.Tensor) -> Values:
    return {"boxes of step 1": (boxes[None],), "partners of step 1": (partners[None],)}
