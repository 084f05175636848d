"""Rectangles pasted by CutMix, as used by scores and informed attackers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.types import Draws


class CutMixRecord(NamedTuple):
    """Pasting record of a batch of B images.

    Attributes:
        partners: index of the image that each image got pixels and label from, shape (B,); None if pixels were erased.
        boxes: first row, end row, first column, end column (ends excluded), shape (B, 4); None if no rectangle was
            pasted.
        weights: weight of each image's own label, shape (B,).
    """

    partners: Tensor | None
    boxes: Tensor | None
    weights: Tensor

    @classmethod
    def written_in(cls, draws: Draws) -> CutMixRecord | None:
        """Return the record under ``NAME.partners``, ``NAME.boxes`` and ``NAME.weights``, or None without weights."""
        by_word = {name.rpartition(".")[2]: tensor for name, tensor in draws.items()}
        if "weights" not in by_word:
            return None
        return cls(by_word.get("partners"), by_word.get("boxes"), by_word["weights"])


def name_pasted_maps(draws: Draws) -> CutMixRecord | None:
    """Return the record with ``NAME.map-boxes``, in map entries, in place of ``NAME.boxes``, or None without it."""
    boxes = next((tensor for name, tensor in draws.items() if name.endswith(".map-boxes")), None)
    pasted = CutMixRecord.written_in(draws)
    return None if pasted is None or boxes is None else pasted._replace(boxes=boxes)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the mask of each box (N, 4), boolean, shape (N, height, width)."""
    top, bottom, left, right = (edge.view(-1, 1) for edge in boxes.unbind(1))
    rows, columns = torch.arange(height), torch.arange(width)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]


def gather(composites: Tensor, partners: Tensor, boxes: Tensor) -> Tensor:
    """Reassemble each image from the composites (B, C, H, W) that contain its pixels.

    Image i consists of composite i outside box i, and of the pixels pasted into another composite. Pixels in no
    composite keep the value of composite i. If the batch shares a box, all pixels are recovered.
    """
    is_pasted = inside(boxes, *composites.shape[-2:])[:, None]
    holders = torch.empty_like(partners)
    holders[partners] = torch.arange(len(partners))
    return torch.where(is_pasted[holders], composites[holders], composites)
