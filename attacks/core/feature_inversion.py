"""Feature inversion: recover an example from its features by damped Gauss-Newton steps through the layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacrev

from attacks.core.tolerances import SINGLE, TINY

STEPS = 30
_TRIES = 8
_FIRST_DAMPING, _EASE, _TIGHTEN = 1e-2, 0.2, 4.0
_STILL = 0.999  # a step that leaves a larger share of the residual is the last
_CHUNK = 64  # rows of a Jacobian at once
_FAR = 1e-3  # relative to the wanted features' norm: above this residual, single-precision slopes suffice


def as_they_are(slopes: Tensor) -> Tensor:
    """Return the slopes unchanged: the covariance of examples with independent entries of equal variance."""
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
    """Return an example (1, *shape) with features near the wanted features, by damped steps of least norm.

    Steps end once the residual is as small as the features' error. Closer features would fit noise, to which pixels
    respond strongly.

    Args:
        read: function from an example to its features (1, D).
        wanted: features of the result, shape (D,).
        start: first example, shape (1, *shape).
        spread: product of slopes (D, n) and the covariance (n, n) of examples, which defines the norm of steps.
        error: norm of the error of the wanted features; None: rounding of single precision.
        roughly: cheaper, less precise version of `read`; gives the slopes at large residuals. None: `read`.
        steps: largest number of steps.
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
