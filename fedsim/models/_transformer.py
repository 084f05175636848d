"""The vision transformer of arXiv 2208.06163: pre-norm blocks, explicit softmax, five dropout positions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models._attention import attention_weights, split_heads
from fedsim.models._inputs import image_shape

Positions = Literal["learned", "sinusoidal", "none"]


class VisionTransformer(nn.Module):
    """Images (B, C, H, W) to class logits (B, classes), computed from the class token.

    The class token and learned positions are initialised from N(0, 1). All dropout modules share one rate: after adding
    positions, and in every block after the softmax, the output projection, the GELU and the second MLP layer.

    Args:
        spec: shape and number of classes.
        patch: height and width of a patch in pixels.
        width: features per token.
        blocks: number of blocks.
        heads: attention heads; each has ``width / heads`` features.
        hidden: hidden units of a block's MLP.
        dropout: probability p of dropping an entry.
        positions: learned; sinusoidal (fixed; Vaswani et al. 2017, arXiv 1706.03762, section 3.5); or none.

    Raises:
        FedsimError: the inputs are not images, are not divisible into patches, or the width is not divisible by the
            heads.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        patch: int,
        width: int,
        blocks: int,
        heads: int,
        hidden: int,
        dropout: float,
        positions: Positions = "learned",
    ) -> None:
        super().__init__()
        channels, height, columns = image_shape(spec, "vision transformer", patch)
        if height % patch or columns % patch:
            raise FedsimError(
                f"a vision transformer cuts images into {patch} x {patch} patches, got {height} x {columns} pixels. "
                f"Set data.size to a multiple of {patch}, for example {math.ceil(height / patch) * patch}."
            )
        if width % heads:
            raise FedsimError(f"a vision transformer's width must be a multiple of its {heads} heads, got {width}.")
        tokens = 1 + (height // patch) * (columns // patch)
        self.patches = nn.Sequential(nn.Conv2d(channels, width, patch, patch), nn.Flatten(2))
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(1, tokens, width))
        else:
            self.register_buffer("positions", sinusoids(tokens, width) * (positions == "sinusoidal"), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TokenBlock(width, heads, hidden, dropout) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.classes))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        return self.head(self.blocks(self.dropout(tokens + self.positions))[:, 0])


def sinusoids(tokens: int, width: int) -> Tensor:
    """Return fixed positions (1, tokens, width): sines in even, cosines in odd entries, of falling frequency."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(tokens)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[None, :, :width]


class TokenBlock(nn.Module):
    """Attention, then MLP, each with a residual connection and pre-norm, on tokens (B, T, width)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads, dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)


class _Attention(nn.Module):
    """Self-attention on tokens (B, T, width); queries, keys and values have no biases."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.joined = _Joined(width)
        self.output = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = split_heads(self.queries_keys_values(tokens), self.heads)
        weights = self.dropout(attention_weights(queries, keys))
        return self.output(self.joined((weights @ values).transpose(1, 2)))


class _Joined(nn.Module):
    """Concatenates heads (B, T, heads, features); a module, so that components can act before the output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width

    def forward(self, heads: Tensor) -> Tensor:
        return heads.flatten(2)
