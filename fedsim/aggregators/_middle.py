"""Coordinate-wise trimmed mean of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 1 << 16  # coordinates per sort, which limits the memory of the sorted copy and its indices


def middle_mean(vectors: Sequence[Tensor], trimmed: int) -> Tensor:
    """Return the mean at every coordinate, without the largest and the smallest values, shape (P,).

    Args:
        vectors: vector of each client, shape (P,).
        trimmed: number of values removed at each end, below half of the vectors.
    """
    blocks = zip(*(vector.split(_BLOCK) for vector in vectors), strict=True)
    return torch.cat([_average_block(block, trimmed) for block in blocks])


def _average_block(vectors: tuple[Tensor, ...], trimmed: int) -> Tensor:
    middle = torch.stack(vectors).sort(dim=0).values[trimmed : len(vectors) - trimmed].unbind()
    # Explicit order: that of torch's mean depends on a coordinate's position in its block.
    return sum(middle, torch.zeros_like(middle[0])) / len(middle)
