"""ResNet-18 with group normalisation (2 groups), and a single dropout between the global pooling and the linear head.

Papers: He et al. 2016, arXiv 1512.03385; Scheliga, Maeder, Seeland 2023, arXiv 2208.06163, which attacks a ResNet but
does not publish its layers; these follow the same group's arXiv 2309.04515: the ImageNet stem, also for 32x32 pixels,
where the last feature map is a single pixel. Convolutions use He's initialisation (arXiv 1502.01852), as in the paper;
with torch's default, SGD at 0.01 does not learn.
Leakage: without batch statistics only image and mask are unknown. At batch size 1 the pooled features are inferred from
the head's gradient, and small images from the features (docs/attacks/own-statistics.md).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape

_GROUPS = 2
_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


class Resnet18Config(Config):
    """Settings of ResNet-18."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping a pooled feature")
    width: int = Field(
        default=64,
        ge=2,
        multiple_of=2,
        description="channels of the first blocks; the last blocks have eight times as many",
    )
    activation: Literal["relu", "silu", "gelu"] = Field(default="relu", description="of every unit")
    stem: Literal["7x7", "3x3"] = Field(
        default="7x7",
        description="first layer; 7x7: stride 2 and max pooling, as for ImageNet; 3x3: stride 1 and no pooling, with "
        "four times the resolution and about 16 times the work",
    )


@model("resnet18", summary="ResNet-18 with GroupNorm, dropout before the head", paper="2208.06163")
def resnet18(config: Resnet18Config, spec: InputSpec) -> nn.Module:
    """Build ResNet-18 for images of any size.

    Raises:
        FedsimError: the inputs are not images.
    """
    channels, _, _ = image_shape(spec, "resnet18")
    width, activation = config.width, _ACTIVATIONS[config.activation]
    blocks: list[nn.Module] = []
    inputs = width
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        blocks += [_Block(inputs, outputs, stride, activation), _Block(outputs, outputs, 1, activation)]
        inputs = outputs
    return nn.Sequential(
        *_stem(channels, width, config.stem, activation),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(inputs, spec.classes),
    )


def _stem(channels: int, width: int, kind: Literal["7x7", "3x3"], activation: type[nn.Module]) -> list[nn.Module]:
    if kind == "3x3":
        return [_convolution(channels, width, 3, 1), nn.GroupNorm(_GROUPS, width), activation()]
    convolution = _convolution(channels, width, 7, 2)
    return [convolution, nn.GroupNorm(_GROUPS, width), activation(), nn.MaxPool2d(3, 2, padding=1)]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, 3, stride),
            nn.GroupNorm(_GROUPS, outputs),
            activation(),
            _convolution(outputs, outputs, 3, 1),
            nn.GroupNorm(_GROUPS, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.GroupNorm(_GROUPS, outputs))
        self.activation = activation()

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.residual(images) + self.shortcut(images))
