"""Which rows of a batch are two views of one example: those whose label is the number of the same pair."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs_in(labels: Tensor) -> Tensor:
    """Return the rows of every pair, shape (P, 2), the first view first.

    Rows with the same label are a pair. Labels that nobody knows pair rows in some order, since every search needs a
    loss; a row that is left alone is its own partner.

    Args:
        labels: numbers of pairs, shape (B,).
    """
    order = labels.argsort(stable=True)
    first, second = order[0::2], order[1::2]
    return torch.stack([first, torch.cat([second, first[len(second) :]])], 1)


def partners_in(labels: Tensor) -> Tensor:
    """Return for each row the row of its partner, shape (B,)."""
    first, second = pairs_in(labels).unbind(1)
    return torch.empty_like(labels, dtype=torch.long).scatter(0, torch.cat([first, second]), torch.cat([second, first]))
