"""Segmentation network: 3x3 convolutions with padding, and a 1x1 convolution to class logits at each pixel.

Leakage: the last layer alone reveals the number of pixels of each class; with a known image, the gradients of all
layers reveal the class of each pixel.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec

_IMAGE = 3  # number of dimensions


class MaskConvnetConfig(Config):
    """Settings of the convolutions for masks."""

    channels: int = Field(default=16, ge=1, description="channels of each hidden layer")
    depth: int = Field(default=2, ge=1, description="hidden layers")


@model("mask-convnet", summary="convolutions from an image to scores of every pixel")
def mask_convnet(config: MaskConvnetConfig, spec: InputSpec) -> nn.Module:
    """Build the network for images (C, H, W); it returns (B, classes, H, W).

    Raises:
        FedsimError: the inputs are not images.
    """
    if len(spec.shape) != _IMAGE:
        raise FedsimError(f"model 'mask-convnet' reads images (C, H, W), got shape {spec.shape}.")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((spec.shape[0], *(config.channels for _ in range(config.depth)))):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(config.channels, spec.classes, 1))
