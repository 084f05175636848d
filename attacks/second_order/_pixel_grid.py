"""Recover the contrast of an image from the grid of its pixel values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST, _MOST, _TRIED = 0.3, 3.0, 400_000  # contrasts, evenly spaced in their logarithm
_FEW, _KEPT = 16, 400  # pixels that preselect contrasts, and contrasts that are tested on all pixels


class GridImage(NamedTuple):
    """An image with pixels that are multiples of one step.

    Attributes:
        image: normalised in single precision, like the client's, shape (C, ...).
        contrast: factor from the given image.
        farthest: largest distance of a pixel from its multiple before rounding, in steps, in [0, 0.5].
    """

    image: Tensor
    contrast: float
    farthest: float


def snap(image: Tensor, steps: int, mean: Sequence[float], std: Sequence[float]) -> GridImage:
    """Return the image at the contrast that brings all its pixels nearest to multiples of 1 / steps.

    Args:
        image: normalised, known up to a positive factor between 0.3 and 3, shape (C, ...), float64.
        steps: number of steps of a pixel between 0 and 1.
        mean: mean of pixels, by channel.
        std: standard deviation of pixels, by channel.
    """
    shape = (-1, *[1] * (image.ndim - 1))
    centres, spreads = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (mean, std))
    centre, slopes = centres.expand_as(image).flatten() * steps, (image * spreads).flatten() * steps
    contrasts = torch.linspace(math.log(_LEAST), math.log(_MOST), _TRIED, dtype=torch.float64).exp()
    chosen = slopes.abs().topk(min(_FEW, len(slopes))).indices
    contrasts = contrasts[_farthest(slopes[chosen], centre[chosen], contrasts).topk(_KEPT, largest=False).indices]
    best = contrasts[_farthest(slopes, centre, contrasts).argmin()]
    multiples = (best * slopes + centre).round()
    contrast = (multiples - centre) @ slopes / slopes.square().sum()  # least squares
    multiples = (contrast * slopes + centre).round()
    pixels = multiples.float().div(steps).view_as(image)
    return GridImage(
        pixels.sub(centres.float()).div(spreads.float()),
        float(contrast),
        float(_farthest(slopes, centre, contrast[None])),
    )


def _farthest(slopes: Tensor, centre: Tensor, contrasts: Tensor) -> Tensor:
    places = contrasts[:, None] * slopes + centre
    return (places - places.round()).abs().amax(1)
