"""Convolutions over the time steps of a window: layers of equal kernel size, dropout, and a dense layer.

In an image each row of pixels is a time step. Leakage: a layer's gradient is a sum over time steps, but has an entry
for each pair of channels and each kernel position, many more than a window has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import as_windows, window_shape

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class WindowConvnetConfig(Config):
    """Settings of the convolutions over a window."""

    channels: int = Field(default=16, ge=1, description="channels of each convolution")
    depth: int = Field(default=2, ge=1, description="convolutions")
    reach: int = Field(
        default=2, ge=0, description="times before and behind that a kernel sees: it is 2 reach + 1 long"
    )
    activation: Literal["gelu", "relu", "silu", "tanh"] = Field(
        default="gelu", description="after each convolution; relu alone has kinks"
    )
    pooling: Literal["none", "mean"] = Field(
        default="none",
        description=("pooling of a channel over time before the dense layer; none: all time steps; mean: their mean"),
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping a number that it reads")


class _Channels(nn.Module):
    """Reshapes windows (B, times, variables), or images by their rows, to channels (B, variables, times)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the channels."""
        return as_windows(inputs).mT


@model("window-convnet", summary="convolutions over the times of a window, or the rows of an image")
def window_convnet(config: WindowConvnetConfig, spec: InputSpec) -> nn.Module:
    """Build the network for windows (times, variables) or images (C, H, W); it returns (B, classes).

    Raises:
        FedsimError: the inputs are neither windows nor images.
    """
    times, variables = window_shape(spec, "window-convnet")
    layers: list[nn.Module] = [_Channels()]
    for inputs, outputs in pairwise((variables, *(config.channels for _ in range(config.depth)))):
        layers += [nn.Conv1d(inputs, outputs, 2 * config.reach + 1, padding=config.reach)]
        layers += [_ACTIVATIONS[config.activation]()]
    if config.pooling == "mean":
        layers.append(nn.AdaptiveAvgPool1d(1))
    features = config.channels * (1 if config.pooling == "mean" else times)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(features, spec.classes))
