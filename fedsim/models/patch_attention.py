"""Attention on embedded patches, without a skip connection or a normalisation before it.

Paper: Lu et al. 2022, arXiv 2112.14087, whose closed form needs such a model. Leakage: queries, keys and values are
linear in the embedded patches, so their gradients are linear equations for the image.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape

_PATCH = 2
_FEATURES = 48
_HEADS = 4


class PatchAttentionConfig(Config):
    """Settings of the attention block."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping an embedded feature")


@model("patch-attention", summary="a single attention block on the embedded patches", related="2112.14087")
def patch_attention(config: PatchAttentionConfig, spec: InputSpec) -> nn.Module:
    """Build the block for images of any size; pixels beyond the last whole patch are ignored.

    Raises:
        FedsimError: the inputs are not images, or smaller than a patch.
    """
    channels, height, width = image_shape(spec, "patch-attention", _PATCH)
    return _PatchAttention(channels, (height // _PATCH) * (width // _PATCH), spec.classes, config.dropout)


class _PatchAttention(nn.Module):
    def __init__(self, channels: int, tokens: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, _FEATURES, _PATCH, _PATCH)
        self.position = nn.Parameter(torch.randn(1, tokens, _FEATURES))
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.MultiheadAttention(_FEATURES, _HEADS, batch_first=True)
        self.body = nn.Sequential(nn.Linear(_FEATURES, _FEATURES), nn.GELU(), nn.Linear(_FEATURES, _FEATURES))
        self.head = nn.Linear(_FEATURES, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.dropout(self.project(inputs).flatten(2).transpose(1, 2) + self.position)
        seen = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((seen + self.body(seen)).mean(1))
