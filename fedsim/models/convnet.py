"""Plain convolutional network: four 3x3 convolutions, two of them with stride 2, dropout, a linear head.

Source: none (no arXiv id); group normalisation is Wu, He 2018, arXiv 1803.08494. Leakage: without pooling every pixel
keeps its position in the flattened features; group normalisation hides the scale of its input.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape

_GROUPS = 2


class ConvnetConfig(Config):
    """Settings of the plain convolutional network."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping a feature before the head")
    width: int = Field(
        default=32,
        ge=2,
        multiple_of=2,
        description="channels of the first two convolutions; the other two have twice as many",
    )
    normalisation: Literal["none", "group"] = Field(
        default="none", description="normalisation; group: GroupNorm of 2 groups after each convolution"
    )


@model("convnet", summary="four 3x3 convolutions, ReLU, dropout, linear")
def convnet(config: ConvnetConfig, spec: InputSpec) -> nn.Module:
    """Build the network for images of any size.

    Raises:
        FedsimError: the inputs are not images.
    """
    channels, height, width = image_shape(spec, "convnet")
    layers: list[nn.Module] = []
    for outputs, stride in ((config.width, 1), (config.width, 2), (2 * config.width, 1), (2 * config.width, 2)):
        layers.append(nn.Conv2d(channels, outputs, 3, stride, padding=1))
        if config.normalisation == "group":
            layers.append(nn.GroupNorm(_GROUPS, outputs))
        layers.append(nn.ReLU())
        channels, height, width = outputs, -(-height // stride), -(-width // stride)
    head = nn.Linear(channels * height * width, spec.classes)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(config.dropout), head)
