"""Targets that were inferred from a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

CLEARLY = 0.1  # distance of the nearest residual, relative to the distance of the next


@dataclass(frozen=True)
class Targets:
    """Targets of a batch, in the order of its examples.

    Attributes:
        values: shape (B, *label_shape); NaN, or `NO_LABEL` for classes, for targets that were not inferred.
        are_read: True for targets that equal the client's up to rounding, the same shape.
        are_bounded: True for targets of which only the least distance from the output is known: the loss is linear
            there.
    """

    values: Tensor
    are_read: Tensor
    are_bounded: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether every target was inferred."""
        return bool(self.are_read.all())

    @property
    def summary(self) -> str:
        """Number of inferred targets, as a sentence for a note."""
        read, bounded, total = int(self.are_read.sum()), int(self.are_bounded.sum()), self.are_read.numel()
        bounds = f", {bounded} are only bounded: the loss is linear in them" if bounded else ""
        return f"{read} of {total} targets are read from the output layer{bounds}"
