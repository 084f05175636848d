"""Places of what stays in each row of a mask."""

from __future__ import annotations

import torch
from torch import Tensor


def places_of(kept: Tensor) -> tuple[Tensor, list[int]]:
    """Return the places (B, most) of what stays in each row of a mask (B, n), ascending, and how many each row has.

    Shorter rows are filled up with places of what does not stay.
    """
    counts: list[int] = kept.sum(1).tolist()
    most = max(counts)
    if min(counts) == most:  # one look at the mask is cheaper than to sort it
        return kept.nonzero()[:, 1].view(len(counts), most), counts
    return (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :most], counts
