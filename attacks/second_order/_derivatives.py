"""Derivatives along directions, by forward mode.

The gradients of two losses have no forward derivative in torch: the mean squared error and the Huber loss. Both are
replaced by equal losses with differentiable gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp, vmap
from torch.overrides import TorchFunctionMode

Function = Callable[[Tensor], Tensor]


def push_forward(function: Function, point: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function at a point (n,) along a direction (n,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it first loads its forward mode
        warnings.filterwarnings("ignore", "There is a performance drop")  # harmless warning for single channels
        with _DerivableLosses():
            return jvp(function, (point,), (direction,))[1]


def push_all_forward(function: Function, point: Tensor, directions: Tensor) -> Tensor:
    """Return the derivatives along every row of directions (k, n), shape (k, P)."""
    return vmap(lambda direction: push_forward(function, point, direction))(directions)


class _DerivableLosses(TorchFunctionMode):
    """Replaces losses whose gradient lacks a forward-mode derivative by equal losses."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {name: value for name, value in (kwargs or {}).items() if value is not None}
        if func in _LOSSES and given.keys() <= {"reduction", "delta"}:
            return _LOSSES[func](*args, **given)
        return func(*args, **(kwargs or {}))


def _squared_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    squares = F.mse_loss(outputs, targets, reduction="none")
    return {"none": squares, "mean": squares.mean(), "sum": squares.sum()}[reduction]


def _huber(outputs: Tensor, targets: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    return delta * F.smooth_l1_loss(outputs, targets, reduction=reduction, beta=delta)


_LOSSES: Mapping[Callable[..., Any], Callable[..., Tensor]] = {F.mse_loss: _squared_error, F.huber_loss: _huber}
