"""Derivatives along directions, by forward mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor
from torch.func import jvp, vmap

Function = Callable[[Tensor], Tensor]


def push_forward(function: Function, point: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function at a point (n,) along a direction (n,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it first loads its forward mode
        return jvp(function, (point,), (direction,))[1]


def push_all_forward(function: Function, point: Tensor, directions: Tensor) -> Tensor:
    """Return the derivatives along every row of directions (k, n), shape (k, P)."""
    return vmap(lambda direction: push_forward(function, point, direction))(directions)
