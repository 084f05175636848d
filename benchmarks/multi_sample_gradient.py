"""How near a released gradient comes to that without dropout, for 1 to 16 samples of multi-sample dropout.

Two figures: 1 - cosine, which attackers match, and the tangent of the angle: how long the noise of the masks is beside
the gradient. A mean of M independent masks shortens noise like 1 / sqrt(M), up to what its mean is off: a network is
not linear in its masks. One MNIST digit a client, an untrained MLP of three hidden layers, p = 0.5; samples in the last
layer, or from the first on. Rows are medians over 20 clients, with ``--full`` over 100.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Sequence  # noqa: E402
from itertools import product  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from fedsim.core.masks import without_dropout  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import World, build  # noqa: E402

SAMPLES = (1, 2, 4, 8, 16)
PLACES = {"last layer": "9", "first layer on": "3"}


def world_of(samples: int, at: str, clients: int) -> World:
    """Return clients with one digit each."""
    raw: dict[str, Any] = {
        "title": "multi-sample dropout",
        "seed": 5,
        "data": {"name": "mnist5k"},
        "model": {"name": "mlp", "bias": True, "dropout": 0.5},
        "components": [{"name": "multi-sample-dropout", "samples": samples, "at": at}],
        "federation": {"clients": clients, "batch_size": 1},
    }
    return build(parse(raw, "benchmark"))


def cosines(samples: int, at: str, clients: int) -> list[float]:
    """Return the cosine of each client's gradient with that of the same image without dropout."""
    world, values = world_of(samples, at, clients), list[float]()
    for client in range(clients):
        update, truth = local_training(world, world.models.first_weights, 1, client)
        model, (batch,) = world.models.holding(world.models.first_weights), truth.batches
        with without_dropout():
            loss = world.stack.criterion(model(batch.inputs), batch.labels)
        whole = torch.autograd.grad(loss, list(world.models.parameters.values()))
        ours, theirs = (
            torch.cat([g.flatten() for g in tensors])
            for tensors in (whole, [update.tensors[n] for n in world.models.parameters])
        )
        values.append(float(torch.cosine_similarity(ours.double(), theirs.double(), 0)))
    return values


def tangent(cosine: float) -> float:
    """Return the tangent of an acute angle."""
    return (cosine**-2 - 1.0) ** 0.5


def measure(full: bool) -> Sequence[Row]:
    """Return both figures for every number of samples at both places."""
    rows: list[Row] = []
    for (place, at), samples in product(PLACES.items(), SAMPLES):
        setting, of_clients = (
            f"MLP, p = 0.5, one digit, M = {samples}, {place}",
            cosines(samples, at, 100 if full else 20),
        )
        rows.append(
            measured(
                "1 - cosine to the gradient without dropout", setting, [1.0 - value for value in of_clients], "", ""
            )
        )
        rows.append(measured("tangent of that angle", setting, [tangent(value) for value in of_clients], "", ""))
    return rows


if __name__ == "__main__":
    main(measure, __doc__ or "")
