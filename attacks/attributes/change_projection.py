"""change-projection: infer an attribute from a random projection of the direction of a weight delta.

Idea: weight deltas of examples that share an attribute point into similar directions, and random projections preserve
    inner products, so a linear probe needs few projected coordinates.
Equation: d(u)_k = sum of s_i u_i over the entries i with h(i) = k, divided by |u|; h assigns one of `width` coordinates
    and s a random sign to each entry, the same for all deltas; a probe learns value <- d on deltas of public examples.
Assumes: single updates; public examples with the attribute; the model that the clients received, and how they train.
Recovers: the most frequent value of the attribute among the examples of an update.
Fails: if labels turn the sign of the delta, so that the mean over examples has no information; noise; mixed batches.
Source: after Melis et al. 2019, arXiv 1805.04049, section 4; the projection is that of Weinberger et al. 2009, arXiv
    0902.2206.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from attacks.attributes._reading import ReadingAttack, ReadingConfig, check_not_empty
from fedsim.core.registry import attack
from fedsim.core.types import Tensors


class ChangeProjectionConfig(ReadingConfig):
    """Settings of change-projection."""

    width: int = Field(default=512, ge=1, description="figures that are kept of a change")


@final
@attack(
    "change-projection", summary="a random projection of the change, read by a probe", tier="core", related="1805.04049"
)
class ChangeProjection(ReadingAttack[ChangeProjectionConfig]):
    """Uses sums of entries with random signs."""

    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return the sums, shape (width,)."""
        check_not_empty(len(change))
        kept, length = torch.zeros(self.config.width), torch.zeros(())
        for tensor in change.values():
            flat = tensor.flatten().float()
            places = torch.randint(2 * self.config.width, flat.shape, generator=generator)
            signs = 1.0 - 2.0 * (places % 2)
            kept.index_add_(0, places // 2, signs * flat)
            length = length + flat.square().sum()
        return kept / length.sqrt().clamp_min(torch.finfo(torch.float).tiny)
