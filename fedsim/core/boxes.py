"""Rectangles of one image inside another: what CutMix writes down, as scorers and informed attackers read it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.types import Draws


class Pasted(NamedTuple):
    """What a component wrote down of a batch of B images.

    Attributes:
        partners: whose pixels and label each image got, shape (B,); None when pixels were erased.
        boxes: where it got them: first and last row, first and last column, the last ones excluded, shape (B, 4); None
            when no rectangle was pasted.
        weights: the share of each image's own label, shape (B,).
    """

    partners: Tensor | None
    boxes: Tensor | None
    weights: Tensor

    @classmethod
    def written_in(cls, draws: Draws) -> Pasted | None:
        """Return what stands under ``NAME.partners``, ``NAME.boxes`` and ``NAME.weights``, or None without weights."""
        by_word = {name.rpartition(".")[2]: tensor for name, tensor in draws.items()}
        if "weights" not in by_word:
            return None
        return cls(by_word.get("partners"), by_word.get("boxes"), by_word["weights"])


def name_pasted_maps(draws: Draws) -> Pasted | None:
    """Return what stands under ``NAME.map-boxes`` in place of ``NAME.boxes``, in entries of maps, or None."""
    boxes = next((tensor for name, tensor in draws.items() if name.endswith(".map-boxes")), None)
    pasted = Pasted.written_in(draws)
    return None if pasted is None or boxes is None else pasted._replace(boxes=boxes)


def areas(boxes: Tensor) -> Tensor:
    """Return the number of pixels of each box (N, 4), shape (N,)."""
    top, bottom, left, right = boxes.unbind(1)
    return (bottom - top) * (right - left)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels lie in each box (N, 4), boolean, shape (N, height, width)."""
    top, bottom, left, right = (edge.view(-1, 1) for edge in boxes.unbind(1))
    rows, columns = torch.arange(height), torch.arange(width)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]


def gather(composites: Tensor, partners: Tensor, boxes: Tensor) -> Tensor:
    """Put every image's pixels back from the composites (B, C, H, W) that hold them.

    Image i keeps composite i outside box i, and takes what was pasted elsewhere from there. Pixels that no composite
    holds keep what stands in composite i. With one box for the batch there are none.
    """
    is_pasted = inside(boxes, *composites.shape[-2:])[:, None]
    holders = torch.empty_like(partners)
    holders[partners] = torch.arange(len(partners))
    return torch.where(is_pasted[holders], composites[holders], composites)
