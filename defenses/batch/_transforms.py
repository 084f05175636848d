"""Library of fifty image transforms, and policies that apply a few of them in order.

Photometric transforms rescale each image by its own range of values, so they need no normalisation constants. Geometric
transforms fill with 0, the mean grey of normalised inputs. A magnitude is in degrees, shear, share of the image's side,
or a factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.errors import FedsimError

_LEAST_RANGE = 1e-6
_Rows = tuple[tuple[float, float, float], tuple[float, float, float]]


def _rotation(degrees: float) -> _Rows:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cosine, -sine, 0.0), (sine, cosine, 0.0)


_GEOMETRIC: dict[str, Callable[[float], _Rows]] = {
    "rotate": _rotation,
    "shear-x": lambda amount: ((1.0, amount, 0.0), (0.0, 1.0, 0.0)),
    "shear-y": lambda amount: ((1.0, 0.0, 0.0), (amount, 1.0, 0.0)),
    "translate-x": lambda share: ((1.0, 0.0, 2.0 * share), (0.0, 1.0, 0.0)),
    "translate-y": lambda share: ((1.0, 0.0, 0.0), (0.0, 1.0, 2.0 * share)),
}
_PHOTOMETRIC: dict[str, Callable[[Tensor, float], Tensor]] = {
    "contrast": lambda unit, factor: unit.lerp(unit.mean((1, 2, 3), keepdim=True), 1.0 - factor),
    "brightness": lambda unit, factor: unit * factor,
    "sharpness": lambda unit, factor: unit.lerp(F.avg_pool2d(unit, 3, 1, 1, count_include_pad=False), 1.0 - factor),
    "posterize": lambda unit, bits: (unit * (2.0**bits - 1.0)).round() / (2.0**bits - 1.0),
    "solarize": lambda unit, bound: torch.where(unit < bound, unit, 1.0 - unit),
    "invert": lambda unit, _: 1.0 - unit,
}


@dataclass(frozen=True)
class Transform:
    """A transform with its magnitude. Differentiable, except at the jumps of posterize and solarize."""

    kind: str
    magnitude: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return transformed images (B, C, H, W)."""
        if self.kind in _GEOMETRIC:
            return _warp(images, _GEOMETRIC[self.kind](self.magnitude))
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        width = (high - low).clamp_min(_LEAST_RANGE)
        return low + width * _PHOTOMETRIC[self.kind]((images - low) / width, self.magnitude).clamp(0.0, 1.0)

    def __str__(self) -> str:
        return f"{self.kind} {self.magnitude:g}"


def _warp(images: Tensor, rows: _Rows) -> Tensor:
    matrix = torch.tensor(rows).to(images).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


LIBRARY: tuple[Transform, ...] = tuple(
    Transform(kind, magnitude)
    for kind, magnitudes in {
        "rotate": (-30, -24, -18, -12, -6, 6, 12, 18, 24, 30),
        "shear-x": (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3),
        "shear-y": (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3),
        "translate-x": (-0.45, -0.3, -0.15, 0.15, 0.3, 0.45),
        "translate-y": (-0.45, -0.3, -0.15, 0.15, 0.3, 0.45),
        "contrast": (0.4, 0.7, 1.3, 1.6),
        "brightness": (0.4, 0.7, 1.3, 1.6),
        "sharpness": (0.1, 0.5, 1.9),
        "posterize": (1, 2),
        "solarize": (0.3, 0.6),
        "invert": (1,),
    }.items()
    for magnitude in magnitudes
)


@dataclass(frozen=True)
class TransformPolicy:
    """Transforms, applied in order."""

    steps: tuple[Transform, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return transformed images (B, C, H, W).

        Raises:
            FedsimError: the inputs are not images.
        """
        if images.ndim != 4:  # noqa: PLR2004 - the message says what they mean
            raise FedsimError(f"image transforms need inputs (B, C, H, W), got {tuple(images.shape)}. Leave them out.")
        for step in self.steps:
            images = step(images)
        return images

    def __str__(self) -> str:
        return " then ".join(map(str, self.steps))


def policy_of(numbers: tuple[int, ...]) -> TransformPolicy:
    """Return the policy of these library indices."""
    return TransformPolicy(tuple(LIBRARY[number] for number in numbers))
