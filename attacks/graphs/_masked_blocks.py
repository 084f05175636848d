"""Find blocks and their dropout masks, if dropout acts between a block centre's hidden value and the span.

The span contains h' = m h / (1 - p) for each node, with an unknown mask m. A vector of a span of r dimensions is
determined by r of its entries. So r entries of a candidate are assumed to be kept, which is true with probability
(1 - p)^r; the other entries that they imply must then be 0 or h / (1 - p). Each sample of r entries tests all
candidates at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.graphs._blocks import Candidates

_MISSED = 1e-3  # probability that the sampled entries of a node are never all kept
_NEAR = 1e-3  # tolerance of an entry, relative to the candidate's root mean square
_FIRST = 8  # entries that are compared before the others
_CONDITION = 1e6  # largest condition number of the sampled entries of the span, because of rounding
_FEWEST_KEPT = 3  # fewest nonzero entries that a valid mask keeps


class MaskedBlock(NamedTuple):
    """Index of a candidate, and a mask of its values, 0 or 1, shape (width,)."""

    number: int
    mask: Tensor


def draws_needed(rank: int, rate: float) -> int:
    """Return the number of samples that miss a node with probability 1 in 1,000."""
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
    """Return the candidates that lie in a span under some mask; one result for each such mask.

    Args:
        candidates: values (N, width), before dropout.
        basis: orthonormal rows of the span, (r, width).
        rate: probability of dropping an entry.
        draws: number of samples of r entries.
        generator: for the samples.
        on_draw: called before each sample.
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
        fitting = _fits(scaled[:, kept] @ implied[:, first], scaled[:, first], slack).all(1).nonzero().flatten()
        for block in _whole(scaled, slack, fitting, kept, implied):
            passed[block.number, block.mask.numpy().tobytes()] = block
    return list(passed.values())


def _whole(scaled: Tensor, slack: Tensor, fitting: Tensor, kept: Tensor, implied: Tensor) -> list[MaskedBlock]:
    """Return the candidates of which every entry is 0 or the value without dropout, with their masks."""
    values = scaled[fitting][:, kept] @ implied
    fit = _fits(values, scaled[fitting], slack[fitting]).all(1)
    masks = (values - scaled[fitting]).abs() <= slack[fitting]
    says = (masks & (scaled[fitting].abs() > 2 * slack[fitting])).sum(1)
    chosen = (fit & (says >= _FEWEST_KEPT)).nonzero().flatten().tolist()
    return [MaskedBlock(int(fitting[index]), masks[index].double()) for index in chosen]


def _fits(values: Tensor, scaled: Tensor, slack: Tensor) -> Tensor:
    return (values.abs() <= slack) | ((values - scaled).abs() <= slack)
