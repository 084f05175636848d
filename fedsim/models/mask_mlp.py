"""Segmentation perceptron: dense layers from all pixels of an image to class logits at each pixel.

Leakage: at batch size 1 the first weight gradient has rank one, and its right factor is the image. The image determines
the predictions of all pixels, so the gradient then reveals the mask.
"""

from __future__ import annotations

import math

from pydantic import Field
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec

_IMAGE = 3  # number of dimensions


class MaskMlpConfig(Config):
    """Settings of the perceptron for masks."""

    width: int = Field(default=128, ge=1, description="units of the hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping a hidden unit")


@model("mask-mlp", summary="dense layers from an image to scores of every pixel")
def mask_mlp(config: MaskMlpConfig, spec: InputSpec) -> nn.Module:
    """Build the perceptron for images (C, H, W); it returns (B, classes, H, W).

    Raises:
        FedsimError: the inputs are not images.
    """
    if len(spec.shape) != _IMAGE:
        raise FedsimError(f"model 'mask-mlp' reads images (C, H, W), got shape {spec.shape}.")
    height, width = spec.shape[1:]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(spec.shape), config.width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.width, spec.classes * height * width),
        nn.Unflatten(1, (spec.classes, height, width)),
    )
