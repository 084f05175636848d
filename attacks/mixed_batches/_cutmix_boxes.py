"""Originals out of composites: what CutMix cut out of one image of a batch stands in another one.

With one box for the batch no pixel is lost. Whoever knows the box puts each image together again: its own composite
outside the box, and inside it the composite whose second label is its first. Who does not know the box knows its area,
(1 - l) H W, from the labels, and takes the box of that area that leaves the smoothest images. Where every composite
has a box of its own, weights, labels and smoothness tell which composite got which of the granted boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.boxes import gathered, inside

_FORBIDDEN, _WRONG_LABEL = 1e12, 1e6
_PURE = 1e-3


class Assembled(NamedTuple):
    """Images put together, in the order of the composites that hold what lies outside the box.

    Attributes:
        images: shape (B, C, H, W).
        labels: of the images, shape (B,).
        boxes: first and last row, first and last column, the last ones excluded, shape (1, 4) or (B, 4).
        cost: sum of squared differences of neighbouring pixels over all images, and a price for labels that disagree.
        partners: whose pixels each composite got, shape (B,).
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    cost: float
    partners: Tensor


def assembled(composites: Tensor, shares: Tensor, box: Tensor | None, slack: float | None = None) -> Assembled | None:
    """Put the images of a batch with one box together.

    Args:
        composites: shape (B, C, H, W).
        shares: of every class in the label of each, shape (B, K).
        box: shape (4,), or None when it is not known.
        slack: by how much the pasted share may differ from the labels', or None when these are exact. Then only boxes
            that CutMix draws are tried: its sides are the same even share of height and width before they are clipped.

    Returns:
        None when every label is pure and no box is given, or none fits: then nothing tells how much was pasted.
    """
    height, width = composites.shape[-2:]
    minor = shares.topk(2).values[:, 1]
    if box is None and float(minor.max()) < _PURE:
        return None
    weight = float(1.0 - minor[minor >= _PURE].mean()) if bool((minor >= _PURE).any()) else 1.0
    found: list[Assembled] = []
    for own in dict.fromkeys((weight, 1.0 - weight)):
        boxes = [box] if box is not None else list(_boxes(1.0 - own, height, width, slack))
        first, second = _labels(shares, own_is_larger=own >= 1.0 - own)
        found += [_with_box(composites, first, second, one) for one in boxes]
    return min(found, key=lambda one: one.cost, default=None)


def assembled_each(composites: Tensor, shares: Tensor, partners: Tensor, boxes: Tensor, weights: Tensor) -> Assembled:
    """Put the images of a batch together whose composites have a known box each, in the order of the batch.

    Args:
        composites: in any order, shape (B, C, H, W).
        shares: of every class in the label of each, shape (B, K).
        partners: whose pixels stand at each place of the batch, shape (B,).
        boxes: at each place, shape (B, 4).
        weights: the share of its own label at each place, shape (B,).
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    def with_order(order: Tensor) -> Assembled:
        own, other = _labels(shares[order], own_is_larger=True)
        own = torch.where(weights >= 0.5, own, other)  # noqa: PLR2004 - the larger share is its own
        exact = F.one_hot(own, shares.shape[1]).to(weights)
        expected = weights[:, None] * exact + (1.0 - weights[:, None]) * exact[partners]
        images = gathered(composites[order], partners, boxes)
        wrong = (expected - shares[order]).abs().sum()
        return Assembled(images, own, boxes, float(_roughness(images).sum() + _WRONG_LABEL * wrong), partners)

    larger = torch.maximum(weights, 1.0 - weights)
    distance = (shares.max(1).values.to(larger)[None] - larger[:, None]).abs()
    order = torch.as_tensor(linear_sum_assignment(distance.numpy())[1])
    best, before = with_order(order), float("inf")
    while best.cost < before:
        before = best.cost
        for first, second in itertools.combinations(range(len(order)), 2):
            swapped = order.clone()
            swapped[[first, second]] = order[[second, first]]
            if (found := with_order(swapped)).cost < best.cost:
                best, order = found, swapped
    return best


def _labels(shares: Tensor, *, own_is_larger: bool) -> tuple[Tensor, Tensor]:
    """Return own and pasted labels (B,), the same where only one is there."""
    values, classes = shares.topk(2)
    second = torch.where(values[:, 1] < _PURE, classes[:, 0], classes[:, 1])
    return (classes[:, 0], second) if own_is_larger else (second, classes[:, 0])


def _boxes(share: float, height: int, width: int, slack: float | None) -> Iterator[Tensor]:
    if slack is None:
        return _boxes_of_area(round(share * height * width), height, width)
    return _boxes_by_law(share, height, width, slack)


def _boxes_by_law(share: float, height: int, width: int, slack: float) -> Iterator[Tensor]:
    """Yield the boxes of CutMix whose share of the image is about the wanted one."""
    sides = {(rows // 2, rows * width // height // 2) for rows in range(2, height + 1)}
    for half_rows, half_columns in sorted(sides):
        rows = sorted({(max(c - half_rows, 0), min(c + half_rows, height)) for c in range(height)})
        columns = sorted({(max(c - half_columns, 0), min(c + half_columns, width)) for c in range(width)})
        for (top, bottom), (left, right) in itertools.product(rows, columns):
            if abs((bottom - top) * (right - left) / (height * width) - share) <= slack:
                yield torch.tensor([top, bottom, left, right])


def _boxes_of_area(area: int, height: int, width: int) -> Iterator[Tensor]:
    for rows in range(1, height + 1):
        columns, rest = divmod(area, rows)
        if rest or not 0 < columns <= width:
            continue
        for top in range(height - rows + 1):
            for left in range(width - columns + 1):
                yield torch.tensor([top, top + rows, left, left + columns])


def _with_box(composites: Tensor, own: Tensor, pasted: Tensor, box: Tensor) -> Assembled:
    """Fill each composite's box from the composite that holds it: labels must agree, and the images be smooth."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    is_pasted = inside(box[None], *composites.shape[-2:])
    pairs = torch.where(is_pasted, composites[None], composites[:, None])  # (B outside, B inside, C, H, W)
    cost = _roughness(pairs) + _FORBIDDEN * (own[:, None] != pasted[None])
    outside, holders = map(torch.as_tensor, linear_sum_assignment(cost.numpy()))
    cost_of_all = float(cost[outside, holders].sum())
    return Assembled(pairs[outside, holders], own, box[None], cost_of_all, holders.argsort())


def _roughness(images: Tensor) -> Tensor:
    rows, columns = images.diff(dim=-2).double().square(), images.diff(dim=-1).double().square()
    return rows.sum((-3, -2, -1)) + columns.sum((-3, -2, -1))
