"""Assemble originals from CutMix composites: pixels cut from one composite are in another composite of the batch.

With one box for the batch no pixel is lost. If the box is known, each image is assembled from its own composite outside
the box and, inside it, from the composite whose second label is its first. If the box is unknown, the labels give its
area (1 - l) H W, and the box of that area with the smoothest images wins. If every composite has its own granted box,
weights, labels and smoothness determine the assignment of composites to boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.metrics.boxes import gather, inside

_FORBIDDEN, _WRONG_LABEL = 1e12, 1e6
_PURE = 1e-3


class Assembled(NamedTuple):
    """Assembled images, in the order of the composites that hold their pixels outside the box.

    Attributes:
        images: shape (B, C, H, W).
        labels: labels of the images, shape (B,).
        boxes: first and last row, first and last column, ends excluded, shape (1, 4) or (B, 4).
        cost: sum of squared differences of neighbouring pixels over all images, plus a penalty for unequal labels.
        partners: index of the image whose pixels are pasted into each composite, shape (B,).
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    cost: float
    partners: Tensor


def assemble(composites: Tensor, shares: Tensor, box: Tensor | None, slack: float | None = None) -> Assembled | None:
    """Return the assembled images of a batch with a common box.

    Args:
        composites: shape (B, C, H, W).
        shares: share of every class in the label of each composite, shape (B, K).
        box: shape (4,), or None if unknown.
        slack: tolerance between the pasted share and the labels' share, or None if labels are exact. With a slack, only
            boxes of CutMix's distribution are tried: before clipping, their sides are equal shares of height and width.

    Returns:
        None if no box fits, or if every label is pure and no box is given: then the pasted area is unknown.
    """
    height, width = composites.shape[-2:]
    minor = shares.topk(2).values[:, 1]
    if box is None and float(minor.max()) < _PURE:
        return None
    weight = float(1.0 - minor[minor >= _PURE].mean()) if bool((minor >= _PURE).any()) else 1.0
    candidates: list[Assembled] = []
    for share in dict.fromkeys((weight, 1.0 - weight)):
        boxes = [box] if box is not None else list(_boxes(1.0 - share, height, width, slack))
        first, second = _labels(shares, own_is_larger=share >= 1.0 - share)
        candidates += [_with_box(composites, first, second, candidate) for candidate in boxes]
    return min(candidates, key=lambda candidate: candidate.cost, default=None)


def assemble_each(composites: Tensor, shares: Tensor, partners: Tensor, boxes: Tensor, weights: Tensor) -> Assembled:
    """Return the assembled images of a batch with a known box per composite, in the order of the batch.

    Args:
        composites: in any order, shape (B, C, H, W).
        shares: share of every class in the label of each composite, shape (B, K).
        partners: index of the image whose pixels are pasted at each position of the batch, shape (B,).
        boxes: box at each position, shape (B, 4).
        weights: share of the own label at each position, shape (B,).
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    def with_order(order: Tensor) -> Assembled:
        host, partner = _labels(shares[order], own_is_larger=True)
        host = torch.where(weights >= 0.5, host, partner)  # noqa: PLR2004 - the larger share is its own
        exact = F.one_hot(host, shares.shape[1]).to(weights)
        expected = weights[:, None] * exact + (1.0 - weights[:, None]) * exact[partners]
        images = gather(composites[order], partners, boxes)
        wrong = (expected - shares[order]).abs().sum()
        return Assembled(images, host, boxes, float(_roughness(images).sum() + _WRONG_LABEL * wrong), partners)

    larger = torch.maximum(weights, 1.0 - weights)
    distance = (shares.max(1).values.to(larger)[None] - larger[:, None]).abs()
    order = torch.as_tensor(linear_sum_assignment(distance.numpy())[1])
    best, before = with_order(order), float("inf")
    while best.cost < before:
        before = best.cost
        for first, second in itertools.combinations(range(len(order)), 2):
            swapped = order.clone()
            swapped[[first, second]] = order[[second, first]]
            if (attempt := with_order(swapped)).cost < best.cost:
                best, order = attempt, swapped
    return best


def _labels(shares: Tensor, *, own_is_larger: bool) -> tuple[Tensor, Tensor]:
    """Return own and pasted labels (B,), equal for composites with a single label."""
    values, classes = shares.topk(2)
    second = torch.where(values[:, 1] < _PURE, classes[:, 0], classes[:, 1])
    return (classes[:, 0], second) if own_is_larger else (second, classes[:, 0])


def _boxes(share: float, height: int, width: int, slack: float | None) -> Iterator[Tensor]:
    if slack is None:
        return _boxes_of_area(round(share * height * width), height, width)
    return _boxes_by_law(share, height, width, slack)


def _boxes_by_law(share: float, height: int, width: int, slack: float) -> Iterator[Tensor]:
    """Yield the boxes of CutMix's distribution with an area close to `share` of the image."""
    sides = {(rows // 2, rows * width // height // 2) for rows in range(2, height + 1)}
    for half_rows, half_columns in sorted(sides):
        rows = sorted({(max(c - half_rows, 0), min(c + half_rows, height)) for c in range(height)})
        columns = sorted({(max(c - half_columns, 0), min(c + half_columns, width)) for c in range(width)})
        for (top, bottom), (left, right) in itertools.product(rows, columns):
            if abs((bottom - top) * (right - left) / (height * width) - share) <= slack:
                yield torch.tensor([top, bottom, left, right])


def _boxes_of_area(area: int, height: int, width: int) -> Iterator[Tensor]:
    for rows in range(1, height + 1):
        columns, columns_left = divmod(area, rows)
        if columns_left or not 0 < columns <= width:
            continue
        for top in range(height - rows + 1):
            for left in range(width - columns + 1):
                yield torch.tensor([top, top + rows, left, left + columns])


def _with_box(composites: Tensor, host: Tensor, pasted: Tensor, box: Tensor) -> Assembled:
    """Fill each composite's box from another composite, so that labels agree and the images are smooth."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    is_pasted = inside(box[None], *composites.shape[-2:])
    pairs = torch.where(is_pasted, composites[None], composites[:, None])  # (B outside, B inside, C, H, W)
    cost = _roughness(pairs) + _FORBIDDEN * (host[:, None] != pasted[None])
    holders_of_outside, holders = map(torch.as_tensor, linear_sum_assignment(cost.numpy()))
    cost_of_all = float(cost[holders_of_outside, holders].sum())
    return Assembled(pairs[holders_of_outside, holders], host, box[None], cost_of_all, holders.argsort())


def _roughness(images: Tensor) -> Tensor:
    rows, columns = images.diff(dim=-2).double().square(), images.diff(dim=-1).double().square()
    return rows.sum((-3, -2, -1)) + columns.sum((-3, -2, -1))
