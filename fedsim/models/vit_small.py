"""Small vision transformer: by default 4 blocks of width 256, 16 heads of 16, MLP 256, patches of 4x4 pixels.

Paper: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163 (MNIST and CIFAR-10). Leakage: the gradient of the position
embedding is exactly zero where the first mask dropped an entry; at batch size 1 there are at least three times as many
weights as mask values and pixels.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._transformer import Positions, VisionTransformer


class VitSmallConfig(Config):
    """Settings of the small vision transformer."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping an entry, at every place")
    patch: int = Field(default=4, ge=1, description="side of a patch in pixels")
    width: int = Field(default=256, ge=1, description="size of a token, a multiple of the heads")
    blocks: int = Field(default=4, ge=1)
    heads: int = Field(default=16, ge=1)
    hidden: int = Field(default=256, ge=1, description="units between the two layers of a block's MLP")
    positions: Positions = Field(default="learned", description="position embedding; sinusoidal is fixed")


@model("vit-small", summary="vision transformer of 1.6 M parameters, 4x4 patches", paper="2208.06163")
def vit_small(config: VitSmallConfig, spec: InputSpec) -> nn.Module:
    """Build the transformer.

    Raises:
        FedsimError: the inputs are not images, their sides are not multiples of the patch, or the width is not a
            multiple of the heads.
    """
    return VisionTransformer(spec, **config.model_dump())
