"""Pair the rows of a batch that are two views of the same example: rows with the same label."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs_in(labels: Tensor) -> Tensor:
    """Return the rows of every pair, shape (P, 2), the first view first.

    Rows with the same label are a pair. Rows with unknown labels are paired in some order, since every search needs a
    loss;
    a remaining row is its own partner.

    Args:
        labels: indices of pairs, shape (B,).
    """
    order = labels.argsort(stable=True)
    first, second = order[0::2], order[1::2]
    return torch.stack([first, torch.cat([second, first[len(second) :]])], 1)


def partners_in(labels: Tensor) -> Tensor:
    """Return the row of each row's partner, shape (B,)."""
    first, second = pairs_in(labels).unbind(1)
    return torch.empty_like(labels, dtype=torch.long).scatter(0, torch.cat([first, second]), torch.cat([second, first]))
