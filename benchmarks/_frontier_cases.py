"""The settings of the benchmark of exact attacks: what is attacked, and what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks._victims import DIGITS, PHOTOGRAPHS
from fedsim.core import registry

SMALL: Mapping[str, Any] = {"name": "digits"}
LENET, RESNET = "benchmarks._frontier_models:lenet", "benchmarks._frontier_models:resnet18"
_TRAINING = 300  # steps of Adam
_RELU: Mapping[str, Any] = {"name": LENET, "activation": "relu"}
_SIGMOID: Mapping[str, Any] = {"name": LENET}
_FIXED: Mapping[str, Any] = {  # normalises by statistics that it received
    "name": RESNET, "width": 4, "activation": "silu", "norm": "inference"
}  # fmt: skip
_IMAGE: Mapping[str, Any] = {"name": RESNET, "width": 6, "activation": "silu", "stages": 2}  # by the image's own


class Case(NamedTuple):
    """A setting: in words, what is attacked and by what, steps of training, the share that is asked for, more time."""

    words: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    attack: str = "gauss-newton"
    batch_size: int = 1
    training_steps: int = 0
    share: str = ""
    longer: float = 1.0  # times the budget

    @property
    def setting(self) -> str:
        """The setting in a table."""
        return f"{self.attack}, {self.words}{', trained' if self.training_steps else ''}, B = {self.batch_size}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the attack: `auto` runs nothing that descends."""
        if self.attack != "auto":
            return {}
        methods = registry.methods("attack").items()
        return {"leave_out": [name for name, method in methods if getattr(method.make, "effort", "") == "descent"]}


CASES = (
    Case("LeNet, sigmoid, MNIST", DIGITS, _SIGMOID, share=">= 0.9"),
    Case("LeNet, sigmoid, MNIST", DIGITS, _SIGMOID, batch_size=2, share=">= 0.8"),
    Case("LeNet, sigmoid, CIFAR-10", PHOTOGRAPHS, _SIGMOID, share=">= 0.9"),
    Case("LeNet, ReLU, MNIST", DIGITS, _RELU, "auto"),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, "auto", training_steps=_TRAINING),
    Case("LeNet, ReLU, digits", SMALL, _RELU, "auto", training_steps=_TRAINING),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, batch_size=4),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, batch_size=8),
    Case("LeNet, sigmoid, digits", SMALL, _SIGMOID, "r-gap", 4),
    Case("LeNet, ReLU, digits", SMALL, _RELU, "copa", 4),
    Case("LeNet, ReLU, dropout 0.5 in front of the head, digits", SMALL, {**_RELU, "dropout": 0.5}, "copa", 4),
    Case("ResNet-18 of width 4, SiLU, fixed statistics, digits", SMALL, _FIXED),
    Case("ResNet-18 of width 4, SiLU, fixed statistics, digits", SMALL, _FIXED, batch_size=2),
    Case("ResNet-18 of width 4, SiLU, fixed statistics, digits", SMALL, _FIXED, batch_size=4),
    Case("four residual blocks of width 6, SiLU, GroupNorm, digits", SMALL, _IMAGE, "own-statistics", 4, longer=2),
)
