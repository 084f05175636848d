"""Small vision transformer: 4 blocks of width 256, 16 heads of 16, MLP 256, patches of 4x4 pixels.

Paper: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163 (MNIST and CIFAR-10). What it may leak: the gradient of the
position embedding is exactly zero where the first mask dropped an entry; at batch size 1 there are at least three times
as many weights as mask values and pixels.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from fedsim.models._transformer import VisionTransformer
from fedsim.registry import model
from fedsim.types import Config, InputSpec


class VitSmallConfig(Config):
    """Settings of the small vision transformer."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping an entry, at all 17 places")


@model("vit-small", summary="vision transformer of 1.6 M parameters, 4x4 patches", paper="2208.06163")
def vit_small(config: VitSmallConfig, spec: InputSpec) -> nn.Module:
    """Build the transformer.

    Raises:
        FedsimError: inputs that are no images, or whose sides are not multiples of 4 pixels.
    """
    return VisionTransformer(spec, patch=4, width=256, blocks=4, heads=16, hidden=256, dropout=config.dropout)
