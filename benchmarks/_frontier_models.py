"""The LeNet of the literature on gradient inversion and ResNet-18, with activations of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from fedsim.core.registry import for_scenarios
from fedsim.core.types import InputSpec

_CHANNELS = 12
_KERNEL = 5
_GROUPS = 2
_STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))  # multiples of the width, strides

Activation = Literal["sigmoid", "tanh", "silu", "gelu", "softplus", "relu"]
Norm = Literal["group", "batch", "inference"]
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


@for_scenarios
def chain(spec: InputSpec, dropout: float) -> nn.Module:
    """Build two convolutions of stride 1 with an invertible activation, dropout and a linear head."""
    channels, height, width = spec.shape
    layers: list[nn.Module] = []
    for outputs in (4, 6):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.LeakyReLU(0.2)]
        channels = outputs
    head = nn.Linear(channels * height * width, spec.classes)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), head)


@for_scenarios
def resnet18(
    spec: InputSpec,
    width: int = 16,
    dropout: float = 0.0,
    activation: Activation = "silu",
    norm: Norm = "group",
    stages: int = len(_STAGES),
) -> nn.Module:
    """Build ResNet-18 with a 3x3 stem and `width` channels in its first stage; the original has 64.

    Args:
        spec: shape and number of classes.
        width: channels of the first stage.
        dropout: rate before the head.
        activation: of every unit.
        norm: by groups of channels; by batch, in training mode; or by the running statistics of batches, as in
            inference, whatever the mode.
        stages: of two blocks each; the original has four.
    """
    layers: list[nn.Module] = [_convolution(spec.shape[0], width, 3, 1), _NORMS[norm](width)]
    layers.append(_ACTIVATIONS[activation]())
    channels = width
    for multiple, stride in _STAGES[:stages]:
        layers += [
            _Block(channels, multiple * width, stride, activation, norm),
            _Block(multiple * width, multiple * width, 1, activation, norm),
        ]
        channels = multiple * width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, spec.classes)
    )


class FixedNorm(nn.BatchNorm2d):
    """Batch normalisation by running statistics, also while the model trains."""

    def forward(self, input: Tensor) -> Tensor:
        return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(_GROUPS, channels)


_NORMS: Mapping[Norm, Callable[[int], nn.Module]] = {
    "group": _group_norm,
    "batch": nn.BatchNorm2d,
    "inference": FixedNorm,
}


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, 3, stride),
            _NORMS[norm](outputs),
            _ACTIVATIONS[activation](),
            _convolution(outputs, outputs, 3, 1),
            _NORMS[norm](outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), _NORMS[norm](outputs))
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.residual(images) + self.shortcut(images))
