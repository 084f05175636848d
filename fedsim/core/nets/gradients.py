"""Gradients by parameter name, and cosine distance of gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def gradient_of(loss: Tensor, parameters: Mapping[str, Tensor], *, create_graph: bool = False) -> dict[str, Tensor]:
    """Return the gradient of a loss by parameter, with zeros for unused parameters.

    Args:
        loss: a scalar.
        parameters: parameters by name.
        create_graph: whether the gradient must be differentiable.
    """
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, gradients, strict=True))


def cosine_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return 1 - cosine of two gradients, in [0, 2]; 1 if either is zero.

    Computed as half the squared distance of the unit vectors, whose rounding error is quadratic; 1 minus a cosine near
    1 would lose all digits.

    Args:
        ours: tensors.
        theirs: tensors of the same shapes.
    """
    ours_norm, theirs_norm = _norm(ours), _norm(theirs)
    if ours_norm == 0.0 or theirs_norm == 0.0:
        return 1.0
    parts = (our / ours_norm - their / theirs_norm for our, their in zip(ours, theirs, strict=True))
    return 0.5 * sum(float(part.square().sum()) for part in parts)


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.hypot(*(float(tensor.norm()) for tensor in tensors))
