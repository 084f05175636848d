"""Vision transformer ViT-B/16: 12 blocks of width 768, 12 heads, MLP 3072, patches of 16x16 pixels.

Papers: Dosovitskiy et al. 2021, arXiv 2010.11929; attacked by Scheliga, Maeder, Seeland 2023, arXiv 2208.06163, on
ImageNet (224x224 pixels, 86.5 M parameters). Leakage: as `vit-small`; at batch size 1 it has five times as many weights
as mask values and pixels.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._transformer import VisionTransformer


class VitB16Config(Config):
    """Settings of ViT-B/16."""

    dropout: float = Field(default=0.25, ge=0, lt=1, description="probability p of dropping an entry, at all 49 places")


@model("vit-b16", summary="vision transformer of 86.5 M parameters, 16x16 patches", paper="2208.06163")
def vit_b16(config: VitB16Config, spec: InputSpec) -> nn.Module:
    """Build the transformer.

    Raises:
        FedsimError: the inputs are not images, or their sides are not multiples of 16 pixels.
    """
    return VisionTransformer(spec, patch=16, width=768, blocks=12, heads=12, hidden=3072, dropout=config.dropout)
