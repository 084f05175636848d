"""CutMix code shared by its variants: mixing partners, boxes, and mixed labels.

Source: Yun et al. 2019, arXiv 1905.04899, equations 1 and 2.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError

_PROBABILITIES = 2


class Draw(NamedTuple):
    """Draws of a batch of B images; all rows are equal if the batch shares one box.

    Attributes:
        partners: p, index of each image's mixing partner, shape (B,).
        boxes: first row, end row, first column, end column (ends excluded), shape (B, 4).
        weights: l, weight of each image's own label, shape (B,), float64.
    """

    partners: Tensor
    boxes: Tensor
    weights: Tensor


class Chances(NamedTuple):
    """Distribution of the draws.

    Attributes:
        beta: both parameters of the Beta distribution of l0; 0 turns mixing off.
        probability: chance that a batch is changed.
        per_sample: whether each example has its own box and weight.
    """

    beta: float
    probability: float
    per_sample: bool


def draw_shares(count: int, chances: Chances, generator: torch.Generator) -> Draw:
    """Draw partners and weights l0 for `count` examples, without boxes."""
    mixture = _mixture(count, chances, generator)
    if mixture is None:
        return draw_nothing(count)
    shares, partners = mixture
    return draw_nothing(count)._replace(partners=partners, weights=shares.expand(count))


def draw_boxes(count: int, size: tuple[int, int], chances: Chances, generator: torch.Generator) -> Draw:
    """Draw partners and boxes for `count` examples of `size` (height, width); weights follow the boxes' areas."""
    mixture = _mixture(count, chances, generator)
    if mixture is None:
        return draw_nothing(count)
    shares, partners = mixture
    height, width = size
    boxes = boxes_of(shares, height, width, generator)
    weights = [1.0 - (bottom - top) * (right - left) / (height * width) for top, bottom, left, right in boxes]
    draw_weights = torch.tensor(weights, dtype=torch.float64)
    return Draw(partners, torch.as_tensor(np.array(boxes)).expand(count, 4), draw_weights.expand(count))


def draw_nothing(count: int) -> Draw:
    """Return the draw that leaves `count` examples unchanged."""
    return Draw(torch.arange(count), torch.zeros(count, 4, dtype=torch.long), torch.ones(count, dtype=torch.float64))


def paste(inputs: Tensor, draw: Draw) -> Tensor:
    """Return a copy of inputs (B, C, H, W) with each partner's box pasted in."""
    if draw.boxes.stride(0) == 0:  # all examples share a box
        box, mixed = _slices(draw.boxes), inputs.clone()
        mixed[box] = inputs[box].index_select(0, draw.partners)
        return mixed
    # Faster than torch.where; exact, since the weights are 0 and 1.
    return torch.lerp(inputs, inputs.index_select(0, draw.partners), _cover(draw.boxes, inputs))


def erase(inputs: Tensor, boxes: Tensor) -> Tensor:
    """Return a copy of inputs (B, C, H, W) with zeros in the boxes (B, 4)."""
    if boxes.stride(0) == 0:
        mixed = inputs.clone()
        mixed[_slices(boxes)] = 0.0
        return mixed
    return torch.lerp(inputs, torch.zeros_like(inputs), _cover(boxes, inputs))


def boxes_of(shares: Tensor, height: int, width: int, generator: torch.Generator) -> list[tuple[int, int, int, int]]:
    """Sample a box for each share l0 (N,): sides floor(H r) and floor(W r), r = sqrt(1 - l0), clipped at the border.

    Half sides are rounded down, so an odd side loses a pixel. Returns rows and columns in the order of `Draw`, as
    Python integers, which are faster than tensors for few boxes.
    """
    rows, columns = (torch.randint(size, shares.shape, generator=generator).tolist() for size in (height, width))
    boxes: list[tuple[int, int, int, int]] = []
    for row, column, share in zip(rows, columns, shares.tolist(), strict=True):
        root = math.sqrt(1.0 - share)
        half_height, aside = int(height * root) // 2, int(width * root) // 2
        boxes.append(
            (
                max(row - half_height, 0),
                min(row + half_height, height),
                max(column - aside, 0),
                min(column + aside, width),
            )
        )
    return boxes


def mixed_labels(labels: Tensor, draw: Draw, classes: int, like: Tensor) -> Tensor:
    """Return l y + (1 - l) y_p as probabilities (B, K) in the precision of `like`.

    Args:
        labels: classes (B,) or probabilities (B, K).
        draw: holds partners and weights.
        classes: K.
        like: tensor whose dtype and device the result gets.

    Raises:
        FedsimError: floating-point labels without shape (B, K).
    """
    if labels.is_floating_point() and labels.shape != (len(labels), classes):
        expected = f"classes (B,) or probabilities (B, {classes})"
        raise FedsimError(f"cutmix cannot mix labels of shape {tuple(labels.shape)}: expected {expected}.")
    one_hot = (
        labels.double()
        if labels.dim() == _PROBABILITIES
        else _one_hot(classes).to(labels.device).index_select(0, labels)
    )
    return torch.lerp(one_hot.index_select(0, draw.partners), one_hot, draw.weights.unsqueeze(1)).to(like)


@cache
def _one_hot(classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64, device="cpu")  # cached on the CPU, for use with any device


def _cover(boxes: Tensor, inputs: Tensor) -> Tensor:
    """Return the indicator of each box (B, 4), shape (B, 1, H, W), with the dtype and device of inputs (B, C, H, W)."""
    top, bottom, left, right = boxes.numpy().T[:, :, None]
    rows, columns = np.arange(inputs.shape[-2]), np.arange(inputs.shape[-1])
    is_row, is_column = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    cover = is_row[:, None, :, None].astype(np.float32) * is_column[:, None, None, :]
    return torch.as_tensor(cover).to(inputs)


def _slices(boxes: Tensor) -> tuple[Any, ...]:
    top, bottom, left, right = boxes[0].tolist()
    return (..., slice(top, bottom), slice(left, right))


def _mixture(count: int, chances: Chances, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Sample shares l0 (B,) or (1,) and partners (B,); return None if the batch stays unchanged."""
    if chances.beta == 0 or torch.rand((), generator=generator).item() >= chances.probability:
        return None
    shares = _beta(chances.beta, count if chances.per_sample else 1, generator)
    return shares, torch.randperm(count, generator=generator)


def _beta(beta: float, count: int, generator: torch.Generator) -> Tensor:
    """Sample `count` values from Beta(beta, beta), float64, by inversion; uniform for beta = 1."""
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    if math.isclose(beta, 1.0):
        return uniform
    from scipy.special import betaincinv  # noqa: PLC0415 - importing SciPy takes longer than many a run

    return torch.as_tensor(betaincinv(beta, beta, uniform.numpy()))
