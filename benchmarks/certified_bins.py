"""certified-bins beside Robbing the Fed at as many units: what comes back, and how much of it is certain.

LeNet on digits of 32 x 32 pixels, untrained. Every guess is compared with every example that the client trained on; it
is right above 40 dB. "right" is the share of returned guesses that are right, "recovered" the share of a client's
examples. Least and greatest are Wilson's 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from benchmarks._victims import make_attack, send_update, world_of
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.threat.observe import observe

_RIGHT = 40.0  # dB
_UNITS = 1024
_BATCHES = (16, 128)
_CLIENTS, _LONG = 5, 20
_STEPS: Mapping[str, dict[str, Any]] = {
    "FedSGD": {"algorithm": "fedsgd"},
    "FedAvg, 2 epochs": {
        "algorithm": "fedavg",
        "local_epochs": 2,
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
    },
}
_ATTACKS: Mapping[str, dict[str, Any]] = {
    "certified-bins": {"name": "certified-bins", "bins": _UNITS // 2},
    "robbing-the-fed, dense": {"name": "robbing-the-fed", "bins": _UNITS},
    "robbing-the-fed, sparse": {"name": "robbing-the-fed", "bins": _UNITS, "variant": "sparse"},
    "robbing-the-fed, sparse, gain 1e5": {"name": "robbing-the-fed", "bins": _UNITS, "variant": "sparse", "gain": 1e5},
}


@experiment("certified-bins", minutes=1, page="attacks/certified-bins")
def certified_bins(budget: Budget) -> Cells:
    """Return a cell for each batch size, way to train and attack."""
    return {
        f"{attack}, B = {size}, {steps}": partial(_rows, attack, size, steps, _LONG if budget.full else _CLIENTS)
        for size in _BATCHES
        for steps in _STEPS
        for attack in _ATTACKS
    }


def _rows(attack: str, size: int, steps: str, clients: int) -> Iterator[Row]:
    world = world_of(
        {
            "seed": 5,
            "data": {"name": "mnist5k", "size": 32},
            "model": {"name": "lenet", "dropout": 0.0},
            "federation": {"clients": _LONG, "batch_size": size, **_STEPS[steps]},
            "threat": {"server": "malicious"},
            "attacks": [_ATTACKS[attack]],
        }
    )
    right: list[float] = []
    recovered: list[float] = []
    setting = f"{attack}, {_UNITS} units, B = {size}, {steps}"
    for client in range(clients):
        victim = send_update(world, client)
        observation = observe(victim, ("batch-size", "input-statistics"))
        try:
            guess = make_attack(**_ATTACKS[attack])(observation, seeding.generator(1, "attack"))
        except NotApplicable as reason:
            yield Row("right", setting, 0.0, "share", n=0, note=str(reason))
            return
        examples = torch.cat([batch.inputs for batch in victim.truth.batches]).flatten(1).unique(dim=0)
        errors = torch.cdist(examples, guess.inputs.flatten(1)) ** 2 / examples.shape[1]
        near = -10 * (errors * world.data.dataset.spec.std[0] ** 2).log10() > _RIGHT
        right += near.any(0).double().tolist()
        recovered += near.any(1).double().tolist()
    yield share("right", setting, right)
    yield share("recovered", setting, recovered)
