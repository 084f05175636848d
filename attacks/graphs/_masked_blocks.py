"""Blocks and their dropout masks, where dropout acts between what a block's centre holds and the span.

The span holds h' = m h / (1 - p) for each node, with an unknown mask m. A vector of a span of r dimensions is known by
r of its entries. So r entries of a candidate are taken for kept, which they all are with probability (1 - p)^r; what
they imply of the others must then be 0 or h / (1 - p). Every draw of r entries tests all candidates at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.graphs._blocks import Candidates

_MISSED = 1e-3  # probability with which a node's entries are never all kept
_NEAR = 1e-3  # of a candidate's root mean square: what its entries may be off
_FIRST = 8  # entries that are compared before the others
_CONDITION = 1e6  # of the drawn entries of the span, beyond which rounding is no longer small
_FEWEST_KEPT = 3  # entries other than 0 that a mask keeps, or it is one of nothing


class MaskedBlock(NamedTuple):
    """Number of a candidate, and a mask of its values, 0 or 1, shape (width,)."""

    number: int
    mask: Tensor


def draws_needed(rank: int, rate: float) -> int:
    """Return how many draws of entries miss a node with probability 1 in 1,000."""
    hit = (1 - rate) ** rank
    return math.ceil(math.log(_MISSED) / math.log1p(-hit)) if hit < 1 else 1


def masked_inside(
    candidates: Candidates,
    basis: Tensor,
    rate: float,
    draws: int,
    generator: torch.Generator,
    on_draw: Callable[[], None],
) -> list[MaskedBlock]:
    """Return the candidates that lie in a span once a mask is put on them; one for each mask of theirs.

    Args:
        candidates: values (N, width), before dropout.
        basis: orthonormal rows of the span, (r, width).
        rate: probability of dropping an entry.
        draws: of r entries.
        generator: draws them.
        on_draw: called before each draw.
    """
    scaled = candidates.values / (1 - rate)
    slack = _NEAR * scaled.square().mean(1).sqrt()[:, None]
    passed: dict[tuple[int, bytes], MaskedBlock] = {}
    for _ in range(draws):
        on_draw()
        order = torch.randperm(scaled.shape[1], generator=generator)
        kept, first = order[: len(basis)], order[len(basis) : len(basis) + _FIRST]
        if float(torch.linalg.cond(basis[:, kept])) > _CONDITION:
            continue
        implied = torch.linalg.inv(basis[:, kept]) @ basis
        near = _fits(scaled[:, kept] @ implied[:, first], scaled[:, first], slack).all(1).nonzero().flatten()
        for block in _whole(scaled, slack, near, kept, implied):
            passed[block.number, block.mask.numpy().tobytes()] = block
    return list(passed.values())


def _whole(scaled: Tensor, slack: Tensor, near: Tensor, kept: Tensor, implied: Tensor) -> list[MaskedBlock]:
    """Return those of some candidates of which every entry is 0 or what it would be without dropout."""
    values = scaled[near][:, kept] @ implied
    fit = _fits(values, scaled[near], slack[near]).all(1)
    masks = (values - scaled[near]).abs() <= slack[near]
    says = (masks & (scaled[near].abs() > 2 * slack[near])).sum(1)
    chosen = (fit & (says >= _FEWEST_KEPT)).nonzero().flatten().tolist()
    return [MaskedBlock(int(near[at]), masks[at].double()) for at in chosen]


def _fits(values: Tensor, scaled: Tensor, slack: Tensor) -> Tensor:
    return (values.abs() <= slack) | ((values - scaled).abs() <= slack)
