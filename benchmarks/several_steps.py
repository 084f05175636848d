"""Updates of several local steps of SGD, solved exactly: how many images come back, and how long it takes.

Untrained models, labels inferred, masks unknown; seconds are those of one core. MNIST; for the transformer 20
photographs, for a LeNet digits of 8 x 8 pixels, through `gauss-newton`. Where images are missing, the ideal attacker
says what the first update holds. Without ``--full``: 5 victims a setting. With it: 10 victims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks._budget import ceiling_row
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import timed
from benchmarks._rows import Row, mean_row, median_row, share
from benchmarks._victims import DIGITS, KNOWN, PHOTOGRAPHS, make_attack, send_update, world_of
from benchmarks.exact_frontier import LENET, SMALL
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.metrics.image import HALF_STEP
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_ALL, _FEW = 10, 5
MLP: Mapping[str, Any] = {"name": "mlp"}
VIT: Mapping[str, Any] = {"name": "vit-small", "patch": 8, "width": 256, "blocks": 2}
SMOOTH: Mapping[str, Any] = {"name": LENET}
_NETWORKS = {
    "vit-small": "small ViT of patch 8 and width 256, CIFAR-10",
    LENET: "LeNet with sigmoid, digits, the same images in every step",
}


class Case(NamedTuple):
    """A client's training."""

    steps: int
    batch_size: int
    rate: float = 0.05
    momentum: float = 0.0
    bias: bool = False
    dropout: float = 0.5
    must: str = ""
    seconds: str = ""
    model: Mapping[str, Any] = MLP
    attack: str = "step-by-step"
    optimizer: str = "sgd"

    @property
    def setting(self) -> str:
        """How its rows name it."""
        network = _NETWORKS.get(self.model["name"], f"MLP {'with' if self.bias else 'without'} bias")
        momentum = f", momentum {self.momentum:g}" if self.optimizer == "sgd" else ""
        return (
            f"{self.attack}, {network}, p = {self.dropout:g}, {self.steps} steps of {self.optimizer}, "
            f"batch {self.batch_size}, step size {self.rate:g}{momentum}"
        )

    @property
    def data(self) -> Mapping[str, Any]:
        """Data set and clients that share it."""
        return {MLP["name"]: DIGITS, LENET: SMALL}.get(self.model["name"], PHOTOGRAPHS)


CASES = (
    Case(2, 8),
    Case(5, 8, must=">= 0.9", seconds="< 30"),
    Case(5, 8, bias=True, must=">= 0.9", seconds="< 30"),
    Case(5, 8, rate=0.2),
    Case(5, 8, momentum=0.9),
    Case(5, 8, dropout=0.25),
    Case(10, 4),
    Case(20, 2),
    *(Case(steps, 1, rate=0.2, model=VIT) for steps in (2, 3)),
    *(Case(2, 1, rate=rate, model=VIT) for rate in (0.05, 0.01)),
    *(Case(steps, 1, dropout=0.0, model=SMOOTH, attack="gauss-newton") for steps in (2, 5, 10, 20)),
    Case(5, 2, dropout=0.0, model=SMOOTH, attack="gauss-newton"),
    Case(5, 1, dropout=0.5, model=SMOOTH, attack="gauss-newton"),
    Case(5, 1, momentum=0.9, dropout=0.0, model=SMOOTH, attack="gauss-newton"),
    Case(5, 1, rate=1e-3, dropout=0.0, model=SMOOTH, attack="gauss-newton", optimizer="adam"),
    Case(5, 8, rate=1e-3, optimizer="adam"),
)


@experiment("several-steps", minutes=30, page="attacks/step-by-step", seconds=90)
def several_steps(budget: Budget) -> Cells:
    """Return a cell for each client's training."""
    victims, seconds = _ALL if budget.full else _FEW, budget.seconds or 0.0
    return {case.setting: partial(_rows, case, victims, seconds) for case in CASES}


def _rows(case: Case, victims: int, most: float) -> Iterator[Row]:
    setting, attacked = case.setting, list(_victims(case, victims))
    try:
        shares, explained, seconds = zip(*(_attack_case(case, victim, most) for victim in attacked), strict=True)
    except NotApplicable as reason:
        yield Row("refused", setting, 1.0, "share", n=victims, note=str(reason))
        return
    yield mean_row("images that come back exactly", setting, shares, "share", case.must)
    yield share("updates that the steps explain exactly", setting, explained)
    yield median_row("processor seconds an update", setting, seconds, "s", case.seconds)
    if min(shares) < 1:
        yield ceiling_row(attacked[0], setting)


def _victims(case: Case, victims: int) -> Iterator[Victim]:
    """Yield updates of the first clients; for a LeNet each client's batch is the same in every step."""
    optimizer: dict[str, Any] = {"name": case.optimizer, "learning_rate": case.rate}
    optimizer |= {"momentum": case.momentum} if case.optimizer == "sgd" else {}
    clients = 20 // (case.steps * case.batch_size) if case.data is PHOTOGRAPHS else 20
    training = {"algorithm": "fedavg", "local_steps": case.steps, "optimizer": optimizer}
    bias = {"bias": case.bias} if case.model is MLP else {}
    world = world_of(
        {
            "seed": 5,
            "data": dict(case.data),
            "model": {**case.model, **bias, "dropout": case.dropout},
            "federation": {"clients": clients, "batch_size": case.batch_size, **training},
        }
    )
    if case.model is SMOOTH:
        client_shares = [case.batch_size * client + torch.arange(case.batch_size) for client in range(victims)]
        world = replace(world, data=replace(world.data, shares=client_shares))
    return (send_update(world, client) for client in range(min(victims, clients)))


def _attack_case(case: Case, victim: Victim, most: float) -> tuple[float, float, float]:
    """Return the share of images that came back, whether they explain the update, and the seconds of at most `most`."""
    generator = seeding.generator(1, "attack", victim.entry.client)
    guess, seconds = timed(partial(make_attack(case.attack), observe(victim, KNOWN), generator, seconds=most))
    scale = torch.tensor(victim.world.data.dataset.spec.std, dtype=torch.float64)[:, None, None]
    true = (scale * torch.cat([batch.inputs for batch in victim.truth.batches])).flatten(1)
    guesses = (scale * guess.inputs).flatten(1)
    near = torch.cdist(true, guesses, p=torch.inf) <= HALF_STEP
    right = float(near.any(1).double().mean()) if len(guesses) else 0.0
    return right, float(guess.is_exact), seconds
