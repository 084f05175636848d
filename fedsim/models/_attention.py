"""Attention with an explicit softmax, which is twice differentiable.

Functions in place of a module, so that the layers of each model keep their parameter names.
"""

from __future__ import annotations

import math

from torch import Tensor


def split_heads(projected: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return queries, keys and values, each (B, heads, T, features), of a joint projection (B, T, 3 width)."""
    return projected.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(Q K^T / sqrt(F) + mask), shape (..., T, S); each row sums to 1.

    Args:
        queries: shape (..., T, F).
        keys: shape (..., S, F).
        mask: added to the scores, broadcast to (..., T, S).
    """
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1)
