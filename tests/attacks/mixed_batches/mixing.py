"""Clients that mix their batches, observed."""

from typing import Any

from fedsim.core.types import Observation, Truth
from fedsim.scenario.world import World
from tests.federating import watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
MLP = {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0, "bias": True}


def seen(name: str, batch: int, client: int, *extra: Any) -> tuple[Observation, Truth, World]:
    return watched(
        knows=(*KNOWN, *extra),
        client=client,
        model=MLP,
        defenses=[{"name": name}],
        federation={"batch_size": batch},
        data={"name": "mnist5k"},
    )
