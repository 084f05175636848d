"""LeNet of the gradient-inversion literature: three 5x5 convolutions of stride 2, dropout, a linear head.

Paper: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163, which attacks a LeNet but does not publish its layers; these
follow the same group's arXiv 2309.04515. Leakage: without pooling and with 64 features at 32x32 pixels it is an easy
target. An inactive ReLU feature has a zero gradient like a dropped feature, so its mask entry cannot be inferred.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape

_CHANNELS = (16, 32, 64)
_KERNEL = 5
_STRIDE = 2
_SMALLEST = 29


class LenetConfig(Config):
    """Settings of LeNet."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping a feature before the head")


@model("lenet", summary="three 5x5 convolutions of stride 2, ReLU, dropout, linear", paper="2208.06163")
def lenet(config: LenetConfig, spec: InputSpec) -> nn.Module:
    """Build LeNet.

    Raises:
        FedsimError: the inputs are not images, or are smaller than 29 x 29 pixels.
    """
    channels, *sides = image_shape(spec, "lenet", _SMALLEST)
    layers: list[nn.Module] = []
    for outputs in _CHANNELS:
        layers += [nn.Conv2d(channels, outputs, _KERNEL, _STRIDE), nn.ReLU()]
        channels, sides = outputs, [(side - _KERNEL) // _STRIDE + 1 for side in sides]
    features = channels * sides[0] * sides[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(features, spec.classes))
