"""The settings of the benchmark of exact attacks: what is attacked, how often, and what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks._victims import DIGITS, PHOTOGRAPHS
from fedsim.core import registry

SMALL: Mapping[str, Any] = {"name": "digits"}
_SIXTEEN: Mapping[str, Any] = {**DIGITS, "size": 16}
_LENET, _RESNET = "benchmarks._frontier_models:lenet", "benchmarks._frontier_models:resnet18"
_DESCENTS = ("inverting-gradients", "dropout-inversion")
_GRADIENTS = 1000  # the budget of an attack that descends
_STEPS = 300  # of Adam, for trained weights


class Case(NamedTuple):
    """A setting: in words, what is attacked, victims of the short version, and what is asked for."""

    words: str
    data: Mapping[str, Any]
    own: Mapping[str, Any]
    few: int
    batch_size: int = 1
    share: str = ">= 0.9"
    seconds: str = ""
    attack: str = "gauss-newton"
    trained: int = 0
    settings: Mapping[str, Any] = {}

    @property
    def model(self) -> Mapping[str, Any]:
        """The model and its settings."""
        return {"name": _LENET, **self.own}

    @property
    def setting(self) -> str:
        """The setting in a table."""
        network = "LeNet, " if self.model["name"] == _LENET else ""
        return f"{self.attack}, {network}{self.words}, B = {self.batch_size}"


_RELU: Mapping[str, Any] = {"activation": "relu"}
_CONVNET: Mapping[str, Any] = {"name": "convnet", "width": 16, "dropout": 0.0}


def _auto(*descents: str) -> Mapping[str, Any]:
    """Return the settings of `auto` with these attacks that descend, and no others."""
    known = registry.methods("attack").items()
    others = [
        name for name, method in known if getattr(method.make, "effort", "") == "descent" and name not in descents
    ]
    return {"leave_out": tuple(others), "max_iterations": _GRADIENTS}


_NARROW: Mapping[str, Any] = {"name": _RESNET, "width": 8, "activation": "silu"}
CASES = (
    Case("sigmoid, MNIST", DIGITS, {}, 5, seconds="< 8"),
    *(Case(f"{own}, MNIST", DIGITS, {"activation": own}, 1) for own in ("tanh", "silu", "gelu", "softplus")),
    Case("sigmoid, dropout 0.5, MNIST", DIGITS, {"dropout": 0.5}, 3),
    Case("sigmoid, CIFAR-10", PHOTOGRAPHS, {}, 2, seconds="< 40"),
    Case("sigmoid, MNIST", DIGITS, {}, 3, 2, ">= 0.8"),
    Case("sigmoid, dropout 0.5, MNIST", DIGITS, {"dropout": 0.5}, 1, 2, ""),
    Case("sigmoid, MNIST", DIGITS, {}, 1, 4, ">= 0.8"),
    Case("ReLU, digits", SMALL, _RELU, 5, share=""),
    Case("ReLU, MNIST of 14 x 14 pixels", {**DIGITS, "size": 14}, _RELU, 2, share=""),
    Case("ReLU, dropout 0.5, digits", SMALL, {**_RELU, "dropout": 0.5}, 3, share=""),
    Case("ReLU, digits", SMALL, _RELU, 2, 2, ""),
    Case("convnet, ReLU, digits", SMALL, _CONVNET, 2, share=""),
    Case("ReLU, digits", SMALL, _RELU, 5, share="", attack="copa"),
    Case("ReLU, MNIST", DIGITS, _RELU, 3, share="", attack="copa"),
    Case("ReLU, MNIST", DIGITS, _RELU, 3, share="", attack="auto", settings=_auto()),
    Case("ReLU, dropout 0.5, MNIST", DIGITS, {**_RELU, "dropout": 0.5}, 2, share="", attack="auto",
         settings=_auto()),
    Case("convnet, ReLU, digits", SMALL, _CONVNET, 3, share="", attack="copa"),
    Case("convnet, ReLU, digits", SMALL, _CONVNET, 2, share="", attack="auto", settings=_auto()),
    *(
        Case("ResNet-18 of width 8, silu, digits", SMALL, _NARROW, 3, share="", attack=attack, settings=settings)
        for attack, settings in (
            ("gauss-newton", {}),
            ("inverting-gradients", {"max_iterations": _GRADIENTS}),
            ("dropout-inversion", {"max_iterations": _GRADIENTS}),
            ("auto", _auto("inverting-gradients")),
        )
    ),
)  # fmt: skip


def _networks() -> Iterator[Case]:
    """Yield every network with batches, dropout and trained weights, one thing changed at a time."""
    networks: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("sigmoid", {}),
        ("ReLU", _RELU),
        ("convnet, ReLU", _CONVNET),
        *((f"ResNet-18 of width 16, {own}", {"name": _RESNET, "activation": own}) for own in ("silu", "gelu", "relu")),
    )
    for words, own in networks:
        yield from _around(f"{words}, MNIST of 16 x 16 pixels", own)


def _around(words: str, own: Mapping[str, Any]) -> Iterator[Case]:
    for size in (1, 2, 4, 8):
        yield from _attacks(words, own, size)
    for rate in (0.25, 0.5):
        yield from _attacks(f"{words}, dropout {rate}", {**own, "dropout": rate}, 1)
    yield from _attacks(f"{words}, trained", own, 1, _STEPS)


def _attacks(words: str, own: Mapping[str, Any], size: int, trained: int = 0) -> Iterator[Case]:
    for attack in ("auto", "gauss-newton", "copa", *_DESCENTS):
        settings = _auto(_DESCENTS[0]) if attack == "auto" else {}
        settings = {"max_iterations": _GRADIENTS} if attack in _DESCENTS else settings
        yield Case(words, _SIXTEEN, own, 3, size, "", "", attack, trained, settings)


NETWORKS = tuple(_networks())
