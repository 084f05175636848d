"""Tiny encoder: maps sentences to embeddings by a two-layer transformer, trained from scratch in minutes.

Paper: Devlin et al. 2019, arXiv 1810.04805: learned positions, attention over the whole sentence, GELU, and dropout of
0.1 after the embedding, the softmax and both parts of a block; here normalisation comes before each part. Leakage: the
embedding's gradient has a nonzero row for each token of the batch, and the position embedding's gradient a nonzero row
for each position up to the end of the longest sentence.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._attention import attention_weights, split_heads
from fedsim.models._encoder import is_word, mean_pooled, sentence_shape

_STD = 0.02


class TinyEncoderConfig(Config):
    """Settings of the tiny encoder."""

    dropout: float = Field(default=0.1, ge=0, lt=1, description="probability p of dropping an entry")
    width: int = Field(default=64, ge=1, description="size of a token and of an embedding, a multiple of the heads")
    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, ge=1, description="units between the layers of a block's MLP")
    positions: int = Field(
        default=64, ge=1, description="maximum number of tokens in a sentence, repeated tokens included"
    )
    pooling: Literal["mean", "class-token"] = Field(
        default="mean", description="embedding: the mean over all tokens of a sentence, or a learned first token"
    )


@model("tiny-encoder", summary="sentence encoder of two small transformer blocks", paper="1810.04805")
def tiny_encoder(config: TinyEncoderConfig, spec: InputSpec) -> nn.Module:
    """Build the model.

    Raises:
        FedsimError: the inputs are not text, have labels or are too long, or the heads do not divide the width.
    """
    sentence_shape(spec, "tiny-encoder", config.positions)
    if config.width % config.heads:
        raise FedsimError(
            f"model 'tiny-encoder' has {config.heads} heads and width {config.width}: expected a multiple of the heads."
        )
    return TinyEncoder(config, spec)


class TinyEncoder(nn.Module):
    """Tokens (B, T) to embeddings (B, width).

    Attributes:
        width: size of an embedding.
        longest: context length in tokens.
        padding_token: token that pads short sentences; None without padding.
    """

    def __init__(self, config: TinyEncoderConfig, spec: InputSpec) -> None:
        super().__init__()
        self.width, self.longest, self.padding_token = config.width, config.positions, spec.padding
        self.embed_tokens = nn.Embedding(spec.vocabulary or 0, config.width)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.class_token = nn.Parameter(torch.zeros(config.width)) if config.pooling == "class-token" else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return embeddings; padding does not change them."""
        counts = is_word(tokens, self.padding_token)
        hidden = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        if self.class_token is not None:
            hidden = torch.cat((self.class_token.expand(len(tokens), 1, -1), hidden), 1)
            counts = torch.cat((counts.new_ones(len(tokens), 1), counts), 1)
        hidden = self.dropout(hidden)
        unseen = torch.zeros_like(counts, dtype=hidden.dtype).masked_fill(~counts, torch.finfo(hidden.dtype).min)
        for block in self.layers:
            hidden = block(hidden, unseen[:, None, None])
        hidden = self.norm(hidden)
        return mean_pooled(hidden, counts) if self.class_token is None else hidden[:, 0]


class _Block(nn.Module):
    def __init__(self, config: TinyEncoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = _Attention(config)
        self.mlp = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, unseen: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), unseen))
        return hidden + self.dropout(self.mlp(hidden))


class _Attention(nn.Module):
    """Attention with an explicit softmax, which is twice differentiable, and an additive mask (B, 1, 1, T)."""

    def __init__(self, config: TinyEncoderConfig) -> None:
        super().__init__()
        self._heads = config.heads
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        queries, keys, values = split_heads(self.queries_keys_values(tokens), self._heads)
        weights = self.dropout(attention_weights(queries, keys, mask))
        return self.output((weights @ values).transpose(1, 2).flatten(2))
