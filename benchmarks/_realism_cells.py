"""The cells of the table of realism: networks, and what their clients do, one factor at a time around two centres.

The centres are one image at fresh weights and four images at trained ones, both FedSGD without dropout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks._frontier_models import Norm
from fedsim.core.errors import FedsimError

State = Literal["fresh", "half trained", "trained"]
Group = Literal["control", "inference mode", "without batch statistics", "as in training"]

_OWNS = 16  # examples of a client: what an epoch of FedAvg runs over
_RATE = 0.25  # of dropout, where it is on
_STEP_SIZE = 0.05  # of FedAvg's SGD
_HALF = 10  # half trained: this part of the steps


class Network(NamedTuple):
    """A network: in words, where its clients' images come from, and its training.

    Attributes:
        words: for people.
        group: of networks that are summed up together.
        data: data set and its settings; of CIFAR-10 without its path.
        model: model and its settings.
        examples: of the training set, which clients share.
        steps: of the training; 0 where it is not trained.
        learns_as: the settings of the model that is trained, where they are others.
        is_large: whether the ideal attacker is not asked, who needs the graph of all weights in double precision.
    """

    words: str
    group: Group
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    examples: int
    steps: int
    learns_as: Mapping[str, Any] = {}
    is_large: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether it is trained somewhere, so that its accuracy is asked for."""
        return self.steps > 0 or "checkpoint" in self.model


class Client(NamedTuple):
    """What a client does: its weights, images of a step, steps of a round (0: one gradient; -1: an epoch), dropout."""

    state: State = "fresh"
    batch_size: int = 1
    local_steps: int = 0
    dropout: float = 0.0

    @property
    def sends(self) -> str:
        """What it sends, in words."""
        known = {0: "FedSGD", 1: "FedAvg, 1 step", -1: f"FedAvg, an epoch of {_OWNS} images"}
        return known.get(self.local_steps, f"FedAvg, {self.local_steps} steps")

    @property
    def words(self) -> str:
        """All of it, in words."""
        return f"{self.state}, B = {self.batch_size}, {self.sends}, dropout {self.dropout:g}"


class Cell(NamedTuple):
    """A client of a network, and whether it is left to the long version."""

    network: Network
    client: Client
    is_long: bool

    @property
    def words(self) -> str:
        """What a row is called."""
        return f"{self.network.words}, {self.client.words}"

    @property
    def steps(self) -> int:
        """Steps of the training that the weights went through."""
        return {"fresh": 0, "half trained": self.network.steps // _HALF, "trained": self.network.steps}[
            self.client.state
        ]

    def tables(self) -> dict[str, Any]:
        """Return the scenario of the client.

        Raises:
            FedsimError: the images are CIFAR-10, and no variable names a copy.
        """
        client, network = self.client, self.network
        federation: dict[str, Any] = {
            "clients": max(3, network.examples // _OWNS),
            "batch_size": client.batch_size,
            "optimizer": {"name": "sgd", "learning_rate": _STEP_SIZE},
        }
        if client.local_steps:
            federation["algorithm"] = "fedavg"
            federation |= {"local_epochs": 1} if client.local_steps < 0 else {"local_steps": client.local_steps}
        return {
            "title": "benchmark",
            "seed": 5,
            "data": located(network.data),
            "model": {**network.model, "dropout": client.dropout},
            "federation": federation,
        }

    def lesson(self) -> dict[str, Any]:
        """Return the scenario that the weights are trained in: without dropout, so that all cells share them."""
        plain = Cell(self.network, Client(batch_size=2), self.is_long).tables()
        return {**plain, "model": {**plain["model"], **self.network.learns_as}}


def located(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set with the path of the copy that a variable names, if it is CIFAR-10.

    Raises:
        FedsimError: the variable is not set, or there is nothing.
    """
    if data["name"] != "cifar10":
        return dict(data)
    where = os.environ.get("FEDSIM_CIFAR10", "")
    if not where or not Path(where).exists():
        raise FedsimError("set FEDSIM_CIFAR10 to a torchvision root or pack of CIFAR-10.")
    return {**data, "path": where}


_CIFAR = {"name": "cifar10", "train": 10_000, "test": 2000}
_SMALL_CIFAR = {**_CIFAR, "size": 16}
_DIGITS = {"name": "digits"}
_PHOTOGRAPHS = {"name": "foolbox-samples", "collection": "imagenet"}
_LENET = {"name": "benchmarks._frontier_models:lenet"}


def _residual(words: str, group: Group, norm: Norm, learns_as: Mapping[str, Any]) -> Network:
    model = {"name": "benchmarks._frontier_models:resnet18", "width": 16, "activation": "relu", "norm": norm}
    label = f"ResNet-18 of width 16, {words}, CIFAR-10 at 16 x 16"
    return Network(label, group, _SMALL_CIFAR, model, 10_000, 1200, learns_as)


_TOKENS = {"name": "vit-small", "patch": 8, "width": 128, "heads": 8}
BATCH_NORM = _residual("BatchNorm", "as in training", "batch", {})
GROUP_NORM = _residual("GroupNorm", "without batch statistics", "group", {})
INFERENCE = _residual("BatchNorm in inference mode", "inference mode", "inference", {"norm": "batch"})
LENET = Network(
    "LeNet, ReLU, digits",
    "without batch statistics",
    _DIGITS,
    {**_LENET, "activation": "relu"},
    1400,
    500,
)
SMALL_VIT = Network("small ViT, CIFAR-10", "without batch statistics", _CIFAR, _TOKENS, 10_000, 1000)
VIT_B16 = Network(
    "ViT-B/16, photographs of 224 x 224",
    "without batch statistics",
    _PHOTOGRAPHS,
    {"name": "vit-b16"},
    20,
    0,
    is_large=True,
)
MLP = Network("MLP, digits", "control", _DIGITS, {"name": "mlp"}, 1400, 500)
SIGMOID = Network("LeNet, sigmoid, digits", "control", _DIGITS, {**_LENET, "activation": "sigmoid"}, 1400, 0)

_SHORT = (
    Client(),
    Client("trained"),
    Client(batch_size=4),
    Client(local_steps=5),
    Client(dropout=_RATE),
)
_LONG = (
    Client("half trained"),
    Client(batch_size=16),
    Client(local_steps=1),
    Client(local_steps=-1, batch_size=4),
    Client("trained", 4),
    Client("half trained", 4),
    Client("trained", 16),
    Client("trained", 4, 1),
    Client("trained", 4, 5),
    Client("trained", 4, -1),
    Client("trained", 4, dropout=_RATE),
)


def _cells(network: Network, short: Sequence[Client], long: Sequence[Client] = ()) -> list[Cell]:
    return [*(Cell(network, client, False) for client in short), *(Cell(network, client, True) for client in long)]


_EVERY = tuple(
    chain(
        _cells(MLP, (Client(), Client("trained"))),
        _cells(SIGMOID, (Client(),)),
        _cells(BATCH_NORM, _SHORT, _LONG),
        _cells(INFERENCE, (), (Client(), Client("trained"), Client("trained", 4))),
        _cells(SMALL_VIT, _SHORT, _LONG),
        _cells(LENET, _SHORT, _LONG),
        _cells(GROUP_NORM, _SHORT[:2], (*_SHORT[2:], *_LONG)),
        _cells(VIT_B16, (Client(), Client(dropout=_RATE)), (Client(batch_size=4), Client(batch_size=4, dropout=_RATE))),
    )
)
CELLS = tuple(sorted(_EVERY, key=lambda cell: cell.is_long))  # the short version first


def cells_of(weights: Path) -> tuple[Cell, ...]:
    """Return the cells of a vision transformer whose weights lie in a file, as torchvision saves its vit_b_16."""
    model = {"name": "torchvision", "classifier": "vit_b_16", "checkpoint": os.fspath(weights.resolve())}
    words = f"ViT-B/16 of torchvision, {weights.name}, photographs of 224 x 224"
    network = Network(words, "without batch statistics", _PHOTOGRAPHS, model, 20, 0, is_large=True)
    return tuple(_cells(network, (Client("trained"), Client("trained", dropout=_RATE))))
