"""The LeNet of the literature on gradient inversion, with smooth activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import nn

from fedsim.core.registry import for_scenarios
from fedsim.core.types import InputSpec

_CHANNELS = 12
_KERNEL = 5

Activation = Literal["sigmoid", "tanh", "silu", "gelu", "softplus", "relu"]
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
}


@for_scenarios
def lenet(spec: InputSpec, dropout: float = 0.0, activation: Activation = "sigmoid") -> nn.Module:
    """Build three 5x5 convolutions of 12 channels with strides 2, 2 and 1, dropout, and a linear head."""
    channels, height, width = spec.shape
    layers: list[nn.Module] = []
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(channels, _CHANNELS, _KERNEL, stride, _KERNEL // 2), _ACTIVATIONS[activation]()]
        channels = _CHANNELS
    features = _CHANNELS * -(-height // 4) * -(-width // 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, spec.classes))
