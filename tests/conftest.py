"""Fixtures that every test may use. Process settings come first: they work only before torch is imported."""

from fedsim import process

process.prepare()

from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from fedsim import world as worlds  # noqa: E402
from fedsim.client import local_training  # noqa: E402
from fedsim.observe import observe  # noqa: E402
from fedsim.scenario import Scenario, parse  # noqa: E402
from fedsim.server import WireEntry  # noqa: E402
from fedsim.types import Observation, Truth  # noqa: E402

torch.set_num_threads(1)

BASE: dict[str, Any] = {
    "title": "test",
    "seed": 3,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25},
    "federation": {"clients": 4, "batch_size": 1},
}

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")


@pytest.fixture
def scenario() -> Callable[..., Scenario]:
    """Build a small scenario on real digits; a table among the arguments replaces one that names another method."""

    def build(**tables: Any) -> Scenario:
        raw = {**BASE}
        for key, value in tables.items():
            is_update = isinstance(value, dict) and isinstance(raw.get(key), dict) and "name" not in value
            raw[key] = {**raw[key], **value} if is_update else value
        return parse(raw, "test")

    return build


@pytest.fixture
def watched(scenario: Callable[..., Scenario]) -> Callable[..., tuple[Observation, Truth, worlds.World]]:
    """Run one client's round of a small scenario, and observe it."""

    def build(
        *, client: int = 0, knows: tuple[str, ...] = KNOWN, **tables: Any
    ) -> tuple[Observation, Truth, worlds.World]:
        world = worlds.build(scenario(**tables))
        update, truth = local_training(world, world.first_weights, 1, client)
        entry = WireEntry(1, client, world.first_weights, update)
        return observe(world, entry, truth, knows), truth, world

    return build
