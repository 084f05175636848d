"""change-norms: infer an attribute from the norms of the rows and columns of a weight delta.

Idea: data determine which neurons and which tokens they change, so row norms distinguish examples even where signs do
    not.
Equation: d(u) = log(|u_i,:| / s + e) and log(|u_:,j| / s + e) of every matrix u of the delta, s the root mean square
    of such norms in u, e = 1e-3; a probe learns value <- d on weight deltas of public examples.
Assumes: single updates; public examples with the attribute; the model that the clients received, and how they train.
Recovers: the most frequent value of the attribute among the examples of an update.
Fails: batches that mix the values; noise above the norms. Clipping and pruning are reproduced in the public weight
    deltas too.
Source: after Melis et al. 2019, arXiv 1805.04049, section 4 (property classifiers on updates); lengths are chosen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from attacks.attributes._reading import ReadingAttack, ReadingConfig, check_not_empty
from fedsim.core.registry import attack
from fedsim.core.types import Tensors

_FLOOR = 1e-3  # relative to the root mean square norm: makes unchanged rows equal in spite of rounding


@final
@attack("change-norms", summary="how far rows and columns moved, read by a probe", tier="core", related="1805.04049")
class ChangeNorms(ReadingAttack[ReadingConfig]):
    """Uses the norms of rows and columns."""

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return the logarithms of all norms, shape (F,)."""
        kept = [length for tensor in change.values() for length in _lengths(tensor)]
        check_not_empty(len(kept))
        return torch.cat(kept)


def _lengths(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the log norms of rows and of columns, or the log absolute entries of a vector."""
    if tensor.dim() < 2:  # noqa: PLR2004 - rows and columns
        yield _scale_lengths(tensor.reshape(-1).abs())
        return
    matrix = tensor.flatten(1).float()
    yield _scale_lengths(matrix.norm(dim=1))
    yield _scale_lengths(matrix.norm(dim=0))


def _scale_lengths(lengths: Tensor) -> Tensor:
    typical = lengths.float().square().mean().sqrt().clamp_min(torch.finfo(torch.float).tiny)
    return (lengths.float() / typical + _FLOOR).log()
