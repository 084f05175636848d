"""The mean of the middle values of several vectors at every coordinate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 1 << 16  # coordinates that are sorted at once, so that the sorted copy and its places stay small


def middle_mean(vectors: Sequence[Tensor], trimmed: int) -> Tensor:
    """Return the mean at every coordinate, without the largest and the smallest values, shape (P,).

    Args:
        vectors: one per client, shape (P,) each.
        trimmed: how many of the largest and how many of the smallest are left out, below half of the vectors.
    """
    blocks = zip(*(vector.split(_BLOCK) for vector in vectors), strict=True)
    return torch.cat([_of_block(block, trimmed) for block in blocks])


def _of_block(vectors: tuple[Tensor, ...], trimmed: int) -> Tensor:
    middle = torch.stack(vectors).sort(dim=0).values[trimmed : len(vectors) - trimmed].unbind()
    # One after the other: the order in which torch's mean adds depends on where a coordinate stands in its block.
    return sum(middle, torch.zeros_like(middle[0])) / len(middle)
