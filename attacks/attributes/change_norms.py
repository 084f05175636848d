"""change-norms: read an attribute from how far each row and each column of a model's tensors moved.

Idea: what data hold decides which neurons and which tokens they touch, so lengths of rows tell examples apart even
    where signs do not.
Equation: d(u) = log(|u_i,:| / s + e) and log(|u_:,j| / s + e) of every matrix u of the change, s the root mean square
    of such lengths in u, e = 1e-3; a probe learns value <- d on changes of public examples.
Assumes: single updates; public examples with the attribute; the model that the clients received, and how they train.
Recovers: the value of the attribute that most examples behind an update have.
Fails: batches that mix the values; noise above the lengths; clipping and pruning are seen in public changes too.
Source: after Melis et al. 2019, arXiv 1805.04049, section 4 (property classifiers on updates); lengths are chosen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from attacks.attributes._reading import ReadingAttack, ReadingConfig, check_not_empty
from fedsim.core.registry import attribute_attack
from fedsim.core.types import Tensors

_FLOOR = 1e-3  # of the typical length: rows that did not move are alike, however close to zero rounding left them


@final
@attribute_attack("change-norms", summary="how far rows and columns moved, read by a probe", related="1805.04049")
class ChangeNorms(ReadingAttack[ReadingConfig]):
    """Keeps the lengths of rows and columns."""

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return the logarithms of all lengths, shape (F,)."""
        kept = [length for tensor in change.values() for length in _lengths(tensor)]
        check_not_empty(len(kept))
        return torch.cat(kept)


def _lengths(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the logarithms of the lengths of rows and of columns, or of the entries where there are none."""
    if tensor.dim() < 2:  # noqa: PLR2004 - rows and columns
        yield _scaled(tensor.reshape(-1).abs())
        return
    matrix = tensor.flatten(1).float()
    yield _scaled(matrix.norm(dim=1))
    yield _scaled(matrix.norm(dim=0))


def _scaled(lengths: Tensor) -> Tensor:
    typical = lengths.float().square().mean().sqrt().clamp_min(torch.finfo(torch.float).tiny)
    return (lengths.float() / typical + _FLOOR).log()
