"""Positions of the True entries in each row of a mask."""

from __future__ import annotations

import torch
from torch import Tensor


def places_of(kept: Tensor) -> tuple[Tensor, list[int]]:
    """Return the positions (B, most) of the True entries in each row of a mask (B, n), ascending, and their numbers.

    Shorter rows are padded with positions of False entries.
    """
    counts: list[int] = kept.sum(1).tolist()
    longest = max(counts)
    if min(counts) == longest:  # faster than sorting
        return kept.nonzero()[:, 1].view(len(counts), longest), counts
    return (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest], counts
