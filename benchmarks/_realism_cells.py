"""The cells of the table of realism: networks, and what their clients do, one factor at a time around one centre.

The centre is one image at trained weights, without dropout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._frontier_models import Norm
from fedsim.core.errors import FedsimError

_OWNS = 16  # examples of a client
_RATE = 0.25  # of dropout, where it is on
_PATIENCE = 2  # where it decides something


class Network(NamedTuple):
    """A network: in words, where its clients' images come from, and its training.

    Attributes:
        words: for people.
        data: data set and its settings; of CIFAR-10 without its path.
        model: model and its settings.
        examples: of the training set, which clients share.
        steps: of the training; 0 where it is not trained.
        learns_as: the settings of the model that is trained, where they are others.
        patience: times the seconds that an attack on an update gets.
    """

    words: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    examples: int
    steps: int
    learns_as: Mapping[str, Any] = {}
    patience: int = 1


class Client(NamedTuple):
    """What a client does: images of its gradient, dropout."""

    batch_size: int = 1
    dropout: float = 0.0

    @property
    def words(self) -> str:
        """All of it, in words."""
        return f"trained, B = {self.batch_size}, dropout {self.dropout:g}"


class Cell(NamedTuple):
    """A client of a network."""

    network: Network
    client: Client = Client()

    @property
    def words(self) -> str:
        """What a row is called."""
        return f"{self.network.words}, {self.client.words}"

    def tables(self) -> dict[str, Any]:
        """Return the scenario of the client.

        Raises:
            FedsimError: the images are CIFAR-10, and no variable names a copy.
        """
        client, network = self.client, self.network
        federation: dict[str, Any] = {
            "clients": max(3, network.examples // _OWNS),
            "batch_size": client.batch_size,
        }
        return {
            "title": "benchmark",
            "seed": 5,
            "data": locate_dataset(network.data),
            "model": {**network.model, "dropout": client.dropout},
            "federation": federation,
        }

    def lesson(self) -> dict[str, Any]:
        """Return the scenario that the weights are trained in: without dropout, so that all cells share them."""
        plain = Cell(self.network, Client(batch_size=2)).tables()
        return {**plain, "model": {**plain["model"], **self.network.learns_as}}


def locate_dataset(data: Mapping[str, Any]) -> dict[str, Any]:
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
_LENET = {"name": "benchmarks._frontier_models:lenet"}


def _residual(words: str, norm: Norm, learns_as: Mapping[str, Any], patience: int = 1) -> Network:
    model = {"name": "benchmarks._frontier_models:resnet18", "width": 16, "activation": "relu", "norm": norm}
    label = f"ResNet-18 of width 16, {words}, CIFAR-10 at 16 x 16"
    return Network(label, _SMALL_CIFAR, model, 10_000, 1200, learns_as, patience=patience)


_TOKENS = {"name": "vit-small", "patch": 8, "width": 128, "heads": 8}
BATCH_NORM = _residual("BatchNorm", "batch", {}, _PATIENCE)
GROUP_NORM = _residual("GroupNorm", "group", {})
INFERENCE = _residual("BatchNorm in inference mode", "inference", {"norm": "batch"})
LENET = Network(
    "LeNet, ReLU, digits",
    _DIGITS,
    {**_LENET, "activation": "relu"},
    1400,
    500,
)
SMALL_VIT = Network("small ViT, CIFAR-10", _CIFAR, _TOKENS, 10_000, 1000)
MLP = Network("MLP, digits", _DIGITS, {"name": "mlp"}, 1400, 500)
CELLS = (
    Cell(MLP),
    Cell(LENET),
    Cell(LENET, Client(batch_size=4)),
    Cell(SMALL_VIT),
    Cell(SMALL_VIT, Client(dropout=_RATE)),
    Cell(INFERENCE),
    Cell(BATCH_NORM),
)
