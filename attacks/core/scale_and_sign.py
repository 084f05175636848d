"""Recover scale and sign of an input that is known up to a factor, from the inputs of the next linear layer.

A layer without bias shows only the direction u of its input. But act(s W u), without the dropped units, must lie in the
row space of the next weight gradient. With a curved activation this holds for a single real s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.pixels import pixel_box
from attacks.core.tolerances import LEAST
from fedsim.core.types import Observation

_GRID = torch.logspace(-1.5, 1.5, 48, dtype=torch.float64)
_NEWTON_STEPS = 12
_SETTLED = 1e-13
_ROWS_AT_ONCE = 4096
_NUMBERS_AT_ONCE = 2**26  # entries of the frames of a part of the directions
_DIFFERENCE = 1e-4
_FLAT = 1e-6
_CLEARLY = 1e-3  # the other sign wins if its residual is below this share; odd activations give equal residuals


@dataclass(frozen=True)
class Scales:
    """Scale factors of several directions.

    Attributes:
        values: signed factors s, shape (A,).
        residuals: sine of the angle between act(s W u) and the row space, shape (A,).
        is_identified: False where the residual does not depend on |s|, as with ReLU; shape (A,).
    """

    values: Tensor
    residuals: Tensor
    is_identified: Tensor


def signed_scales(inputs: Callable[[Tensor], Tensor], outputs: Tensor, compared: Tensor, row_space: Tensor) -> Scales:
    """Search s on a grid, then refine the best point of each sign by Gauss-Newton steps on log |s|.

    Both signs are refined, since a saturated activation can have a smaller residual on the grid than points near the
    true factor. Directions are searched in parts, since each has a frame of the row space's size.

    Args:
        inputs: the next layer's inputs as a function of the first layer's outputs.
        outputs: W u of directions u with root mean square 1, shape (A, width), float64.
        compared: 1 for units that are surely kept, 0 for dropped or uncertain units, shape (A, width).
        row_space: rows that span the next layer's inputs, shape (R, width).
    """
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, row_space.numel()))
    parts = [
        _signed_scales(inputs, part, units, _frames(units, row_space))
        for part, units in zip(outputs.split(at_once), compared.split(at_once), strict=True)
    ]
    return Scales(
        *map(torch.cat, zip(*((part.values, part.residuals, part.is_identified) for part in parts), strict=True))
    )


def _signed_scales(inputs: Callable[[Tensor], Tensor], outputs: Tensor, compared: Tensor, frames: Tensor) -> Scales:
    def residuals(scales: Tensor) -> Tensor:
        """Return the residuals (S, A, width) for scales (S, A)."""
        seen = inputs((scales[:, :, None] * outputs).flatten(0, 1)).view(-1, *outputs.shape)
        return _outside(seen * compared, frames)

    grid = torch.cat([_GRID, -_GRID]).to(outputs.device)
    sizes = torch.cat(
        [
            residuals(part[:, None].expand(-1, len(outputs))).norm(dim=2)
            for part in grid.split(max(1, _ROWS_AT_ONCE // len(outputs)))
        ]
    )
    by_sign = sizes.view(2, len(_GRID), -1)
    first = sizes.argmin(0) // len(_GRID)  # 0 where the best point of the grid is positive
    signs = torch.stack([first, 1 - first])
    starts = grid.view(2, -1)[signs, by_sign.argmin(1).gather(0, signs)]
    scales = _refine(residuals, starts)
    left = residuals(scales).norm(dim=2)
    chosen = (left[1] < _CLEARLY * left[0]).long()[None]
    scales = scales.gather(0, chosen)
    slopes = _slopes(residuals, scales)[0]
    return Scales(scales[0], left.gather(0, chosen)[0], slopes.norm(dim=1) > _FLAT)


def _refine(residuals: Callable[[Tensor], Tensor], scales: Tensor) -> Tensor:
    """Return the scales (S, A) after Gauss-Newton steps on log |s|, which keep each sign."""
    for _ in range(_NEWTON_STEPS):
        slopes = _slopes(residuals, scales)
        curvature = slopes.square().sum(2).clamp_min(LEAST)
        steps = -(slopes * residuals(scales)).sum(2) / curvature
        steps = torch.where(curvature.sqrt() > _FLAT, steps.clamp(-0.3, 0.3), 0.0)
        scales = scales * steps.exp()
        if bool((steps.abs() < _SETTLED).all()):
            break
    return scales


def outside_row_space(seen: Tensor, compared: Tensor, row_space: Tensor) -> Tensor:
    """Return the parts of unit vectors outside a row space, over the compared units only, shape (A, width).

    Args:
        seen: inputs of the next layer, shape (A, width).
        compared: 1 for units that are surely kept, shape (A, width).
        row_space: rows that span the next layer's inputs, shape (R, width).
    """
    return _outside((seen * compared)[None], _frames(compared, row_space))[0]


def _frames(compared: Tensor, row_space: Tensor) -> Tensor:
    """Return orthonormal columns that span the compared part of the row space, (A, width, R)."""
    return torch.linalg.qr((row_space * compared[:, None]).mT).Q


def _outside(seen: Tensor, frames: Tensor) -> Tensor:
    """Return the parts of the unit vectors of `seen` (S, A, width) outside the frames (A, width, R)."""
    unit = torch.nn.functional.normalize(seen, dim=2)
    rows = unit.transpose(0, 1)
    unexplained = unit - (rows @ frames @ frames.mT).transpose(0, 1)
    return torch.where(
        seen.any(2, keepdim=True), unexplained, seen.shape[2] ** -0.5
    )  # an all-zero input explains nothing


def _slopes(residuals: Callable[[Tensor], Tensor], scales: Tensor) -> Tensor:
    """Return the derivative of the residuals (S, A, width) with respect to log |s|, by central differences."""
    upper, lower = residuals(scales * (1 + _DIFFERENCE)), residuals(scales * (1 - _DIFFERENCE))
    return (upper - lower) / (2 * _DIFFERENCE)


def largest_in_range(examples: Tensor, observation: Observation) -> Tensor:
    """Return the largest positive factors, shape (A,), that keep examples (A, *shape) inside the pixel range.

    The factor is 1 if 0 is not inside the range, for example with an unknown normalisation.
    """
    low, high = (bound.double() for bound in pixel_box(observation))
    limits = torch.where(examples > 0, high, low) / torch.where(examples == 0, torch.nan, examples)
    factors = limits.nan_to_num(nan=torch.inf).flatten(1).amin(1)
    return torch.where((factors > 0) & factors.isfinite(), factors, 1.0)
