"""A Llama block built from plain modules, twice differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsim.models._attention import attention_weights

_CacheUpdate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # new keys and values to all keys and values
_ALL = slice(None)


class Sizes(Protocol):
    """Settings of a block."""

    dropout: float
    width: int
    heads: int
    hidden: int
    base: float
    epsilon: float

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads, a divisor of the number of heads."""
        ...


class LlamaBlock(nn.Module):
    """Hidden states (B, T, width) to hidden states: attention and a gated MLP, each after a norm."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.mlp = _GatedMlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        *,
        attention_mask: Tensor | None,
        positions: Tensor | None = None,
        cache: _CacheUpdate | None = None,
        shares: Tensor | None = None,
        seen: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return the hidden states after the block.

        Args:
            hidden: hidden states (B, T, width).
            attention_mask: additive mask, or None.
            positions: positions (B, T) of the tokens; None for 0, 1, ...
            cache: appends new keys and values to a cache and returns all of them.
            shares: factors (B, S) of the attention on each token; rows are renormalised to sum 1.
            seen: receives the attention weights before dropout.
        """
        attended = self.self_attn(self.input_layernorm(hidden), attention_mask, positions, cache, shares, seen)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden)))


class _Attention(nn.Module):
    """Attention with an explicit softmax, which is twice differentiable, and an additive mask (1 or B, 1, T, S).

    With `past`, tokens at `positions` (B, T) also attend to the cached keys and values.
    """

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self._features = config.width // config.heads
        self._repeats = config.heads // config.key_value_heads
        self._base = config.base
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, config.key_value_heads * self._features, bias=False)
        self.v_proj = nn.Linear(config.width, config.key_value_heads * self._features, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor | None = None,
        cache: _CacheUpdate | None = None,
        shares: Tensor | None = None,
        seen: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        queries, keys = self.queries_keys(tokens, positions)
        values = self._heads(self.v_proj(tokens))
        if cache is not None:
            keys, values = cache(keys, values)
        weights = self.weights(queries, keys, mask, shares)
        if seen is not None:
            seen(weights)
        return self.o_proj(
            (self.dropout(weights) @ values.repeat_interleave(self._repeats, 1)).transpose(1, 2).flatten(2)
        )

    def queries_keys(
        self, tokens: Tensor, positions: Tensor | None = None, rows: slice = _ALL
    ) -> tuple[Tensor, Tensor]:
        """Return rotated queries (B, heads, T, F) and keys (B, key heads, T, F).

        Queries are restricted to a slice of the tokens.
        """
        queries, keys = self._heads(self.q_proj(tokens[:, rows])), self._heads(self.k_proj(tokens))
        places = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions[:, None]
        return _rotate(queries, places[..., rows], self._base), _rotate(keys, places, self._base)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None, shares: Tensor | None = None) -> Tensor:
        """Return attention weights (B, heads, T, S); each row sums to 1."""
        weights = attention_weights(queries, keys.repeat_interleave(self._repeats, 1), mask)
        if shares is None:
            return weights
        weights = weights * shares[:, None, None]
        return weights / weights.sum(-1, keepdim=True)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self._features)).transpose(1, 2)  # (B, heads, T, features)


class _GatedMlp(nn.Module):
    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(tokens)) * self.up_proj(tokens))


def _rotate(heads: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotate entries i and i + F/2 of every head (B, heads, T, F) by the angle position * base^(-2i/F)."""
    half = heads.shape[-1] // 2
    rates = base ** (-torch.arange(half, dtype=torch.float32, device=heads.device) / half)
    angles = positions.to(torch.float32)[..., None] * rates
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
