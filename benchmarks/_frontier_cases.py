"""The settings of the benchmark of exact attacks: what is attacked, how often, and what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks._victims import DIGITS, PHOTOGRAPHS
from fedsim.core import registry

SMALL: Mapping[str, Any] = {"name": "digits"}
LENET, RESNET = "benchmarks._frontier_models:lenet", "benchmarks._frontier_models:resnet18"
GRADIENTS = 1000  # the budget of an attack that descends


class Case(NamedTuple):
    """A setting: in words, what is attacked, victims of the short version, and what is asked for."""

    words: str
    data: Mapping[str, Any]
    model_settings: Mapping[str, Any]
    few: int
    batch_size: int = 1
    share: str = ">= 0.9"
    seconds: str = ""
    attack: str = "gauss-newton"
    settings: Mapping[str, Any] = {}

    @property
    def model(self) -> Mapping[str, Any]:
        """The model and its settings."""
        return {"name": LENET, **self.model_settings}

    @property
    def setting(self) -> str:
        """The setting in a table."""
        network = "LeNet, " if self.model["name"] == LENET else ""
        return f"{self.attack}, {network}{self.words}, B = {self.batch_size}"


RELU: Mapping[str, Any] = {"activation": "relu"}
CONVNET: Mapping[str, Any] = {"name": "convnet", "width": 16, "dropout": 0.0}


def auto_with(*descents: str) -> Mapping[str, Any]:
    """Return the settings of `auto` with these attacks that descend, and no others."""
    known = registry.methods("attack").items()
    others = [
        name for name, method in known if getattr(method.make, "effort", "") == "descent" and name not in descents
    ]
    return {"leave_out": tuple(others), "max_iterations": GRADIENTS}


def fixed(activation: str) -> Mapping[str, Any]:
    """Return a narrow ResNet-18 that normalises by statistics that it received, as in fine-tuning."""
    return {"name": RESNET, "width": 4, "activation": activation, "norm": "inference"}


_NARROW: Mapping[str, Any] = {"name": RESNET, "width": 8, "activation": "silu"}
CASES = (
    Case("sigmoid, MNIST", DIGITS, {}, 5, seconds="< 8"),
    *(Case(f"{kind}, MNIST", DIGITS, {"activation": kind}, 1) for kind in ("tanh", "silu", "gelu", "softplus")),
    Case("sigmoid, dropout 0.5, MNIST", DIGITS, {"dropout": 0.5}, 3),
    Case("sigmoid, CIFAR-10", PHOTOGRAPHS, {}, 2, seconds="< 40"),
    Case("sigmoid, MNIST", DIGITS, {}, 3, 2, ">= 0.8"),
    Case("sigmoid, dropout 0.5, MNIST", DIGITS, {"dropout": 0.5}, 1, 2, ""),
    Case("sigmoid, MNIST", DIGITS, {}, 1, 4, ">= 0.8"),
    Case("ReLU, digits", SMALL, RELU, 5, share=""),
    Case("ReLU, MNIST of 14 x 14 pixels", {**DIGITS, "size": 14}, RELU, 2, share=""),
    Case("ReLU, dropout 0.5, digits", SMALL, {**RELU, "dropout": 0.5}, 3, share=""),
    Case("ReLU, digits", SMALL, RELU, 2, 2, ""),
    Case("convnet, ReLU, digits", SMALL, CONVNET, 2, share=""),
    Case("ReLU, digits", SMALL, RELU, 5, share="", attack="copa"),
    Case("ReLU, digits", SMALL, RELU, 10, 4, "", attack="copa"),
    Case("ReLU, dropout 0.5, digits", SMALL, {**RELU, "dropout": 0.5}, 10, 4, "", attack="copa"),
    Case("ReLU, dropout 0.5, digits", SMALL, {**RELU, "dropout": 0.5}, 10, 8, "", attack="copa"),
    Case("sigmoid, digits", SMALL, {}, 10, 4, "", attack="r-gap"),
    *(Case("sigmoid, digits", SMALL, {}, few, size, "") for few, size in ((10, 4), (5, 8))),
    Case("ReLU, MNIST", DIGITS, RELU, 3, share="", attack="copa"),
    Case("ReLU, MNIST", DIGITS, RELU, 3, share="", attack="auto", settings=auto_with()),
    Case("ReLU, dropout 0.5, MNIST", DIGITS, {**RELU, "dropout": 0.5}, 2, share="", attack="auto",
         settings=auto_with()),
    Case("convnet, ReLU, digits", SMALL, CONVNET, 3, share="", attack="copa"),
    Case("convnet, ReLU, digits", SMALL, CONVNET, 2, share="", attack="auto", settings=auto_with()),
    *(
        Case("ResNet-18 of width 8, silu, digits", SMALL, _NARROW, 3, share="", attack=attack, settings=settings)
        for attack, settings in (
            ("gauss-newton", {}),
            ("inverting-gradients", {"max_iterations": GRADIENTS}),
            ("dropout-inversion", {"max_iterations": GRADIENTS}),
            ("auto", auto_with("inverting-gradients")),
        )
    ),
    *(
        Case(f"ResNet-18 of width 4, {activation}, fixed statistics, digits", SMALL, fixed(activation), 5, size, "")
        for activation, size in (("silu", 1), ("gelu", 1), ("silu", 2), ("silu", 4))
    ),
)  # fmt: skip
