"""An example whose features are given ones, followed back through the layers that made them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacrev

from attacks.core.tolerances import SINGLE, TINY

STEPS = 30
_TRIES = 8
_FIRST_DAMPING, _EASE, _TIGHTEN = 1e-2, 0.2, 4.0
_STILL = 0.999  # a step that gains less is the last one
_CHUNK = 64  # rows of a Jacobian at once
_FAR = 1e-3  # of the wanted features' norm: from farther away, slopes in single precision lead as well


def as_they_are(slopes: Tensor) -> Tensor:
    """Return slopes times the covariance of examples whose entries are independent and equally likely."""
    return slopes


def follow_back(
    read: Callable[[Tensor], Tensor],
    wanted: Tensor,
    start: Tensor,
    spread: Callable[[Tensor], Tensor] = as_they_are,
    error: float | None = None,
    roughly: Callable[[Tensor], Tensor] | None = None,
    steps: int = STEPS,
) -> Tensor:
    """Return an example (1, *shape) whose features are near the wanted ones, by damped steps of least norm.

    Steps end where only the error is left: nearer features would be those of noise, which pixels follow far away.

    Args:
        read: features (1, D) of an example.
        wanted: shape (D,).
        start: where steps begin, shape (1, *shape).
        spread: slopes (D, n) times the covariance (n, n) of examples, in whose norm steps are least.
        error: how far wanted features may be from the truth; absent: what single precision leaves.
        roughly: reads the same features at less cost, to few digits; far away its slopes are taken. Absent: `read`.
        steps: at most.
    """
    values, damping = start, _FIRST_DAMPING
    enough = SINGLE * float(wanted.norm()) if error is None else error
    residual = wanted - read(values)[0]
    for _ in range(steps):
        is_far = float(residual.norm()) > _FAR * float(wanted.norm())
        slopes = _slopes(roughly if roughly is not None and is_far else read, values)
        ways = spread(slopes)
        products = slopes @ ways.T
        size = float(products.diagonal().mean().clamp_min(TINY))
        for tightened in range(_TRIES):
            damped = products.clone()
            damped.diagonal().add_(damping * _TIGHTEN**tightened * size)
            tried = values + (ways.T @ torch.linalg.solve(damped, residual)).view_as(values)
            missing = wanted - read(tried)[0]
            if missing.norm() < residual.norm():
                break
        else:
            return values
        gain = float(missing.norm() / residual.norm())
        values, residual, damping = tried, missing, damping * _TIGHTEN**tightened * _EASE
        if gain > _STILL or float(residual.norm()) < enough:
            break
    return values


def _slopes(read: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return the slopes of features (D,) by the entries of an example (n,), shape (D, n)."""
    return jacrev(lambda point: read(point)[0], chunk_size=_CHUNK)(values).flatten(1)
