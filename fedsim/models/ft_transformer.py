"""FT-Transformer: a token for each feature of a table row, a class token, and pre-norm blocks.

Paper: Gorishniy et al. 2021, arXiv 2106.11959. Leakage: numbers and categories have their own parameters. At batch
size 1 the gradients of these give the row, whatever follows, dropout included.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.feature_tokens import FeatureTokens
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._transformer import TokenBlock


class FtTransformerConfig(Config):
    """Settings of the FT-Transformer."""

    dropout: float = Field(default=0.1, ge=0, lt=1, description="probability p of dropping an entry inside the blocks")
    width: int = Field(default=64, ge=1, description="size of a token, a multiple of the heads")
    blocks: int = Field(default=3, ge=1)
    heads: int = Field(default=8, ge=1)
    hidden: int = Field(default=128, ge=1, description="units between the two layers of a block's MLP")


@model("ft-transformer", summary="a transformer over the features of a table's row", paper="2106.11959")
def ft_transformer(config: FtTransformerConfig, spec: InputSpec) -> nn.Module:
    """Build the transformer.

    Raises:
        FedsimError: the inputs are not table rows, or the width is not a multiple of the heads.
    """
    if len(spec.shape) != 1 or spec.vocabulary is not None:
        raise FedsimError(f"model 'ft-transformer' reads rows of a table, got inputs of shape {tuple(spec.shape)}.")
    if config.width % config.heads:
        raise FedsimError(
            f"model 'ft-transformer' needs a width that is a multiple of its {config.heads} heads, got {config.width}."
        )
    return _FtTransformer(config, spec)


class _FtTransformer(nn.Module):
    def __init__(self, config: FtTransformerConfig, spec: InputSpec) -> None:
        super().__init__()
        width = config.width
        self.tokens = FeatureTokens(spec, width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.Sequential(
            *(TokenBlock(width, config.heads, config.hidden, config.dropout) for _ in range(config.blocks))
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, spec.classes))

    def forward(self, rows: Tensor) -> Tensor:
        tokens = torch.cat([self.class_token.expand(len(rows), -1, -1), self.tokens(rows)], 1)
        return self.head(self.blocks(tokens)[:, 0])
