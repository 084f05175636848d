"""Bits of the generator's outputs from Gaussian values of ``Tensor.normal_``, each with its error margin.

For 16 values or more torch draws a uniform u per value, in blocks of 16, and value j and j + 8 of a block are
sqrt(-2 ln(1 - u[j])) times cosine and sine of 2 pi u[j + 8]. If the number of values is no multiple of 16, the last 16
values are drawn again. Fewer than 16 values use another algorithm: two float64 uniforms for two values; the second
value is cached for the next call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 16
MOST_BITS = 18  # of a uniform: float32 has 24, and rounding of logarithm and root disturbs the lowest bits

FIRST_BIT = {torch.float32: 23, torch.float64: 20}  # of the first output that a uniform is made of

_HALF = BLOCK // 2
_OUTPUTS_A_SMALL_PAIR = 4  # two float64 uniforms of two outputs each
_WIDTH = {torch.float32: 1, torch.float64: 2}  # outputs that a uniform is made of


@dataclass(frozen=True)
class Pairs:
    """Pairs of values, each from a Box-Muller step; all arrays have shape (n,).

    Attributes:
        cosine, sine: indices of the two values, over all tensors in the order of the draws.
        radius, angle: indices of the generator's outputs behind their uniforms.
        first_bit: the output's bit that is the highest of the uniform.
    """

    cosine: NDArray[np.intp]
    sine: NDArray[np.intp]
    radius: NDArray[np.intp]
    angle: NDArray[np.intp]
    first_bit: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.cosine)

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Pairs:
        parts = (self.cosine, self.sine, self.radius, self.angle, self.first_bit)
        return Pairs(*(part[chosen] for part in parts))


def is_supported(dtype: torch.dtype) -> bool:
    """Return whether the outputs behind values of a type are known."""
    return dtype in _WIDTH


def layout(sizes: Sequence[int], dtypes: Sequence[torch.dtype], holds_value: bool) -> Pairs:
    """Return the pairs in tensors that are drawn consecutively, each by ``normal_``.

    Args:
        sizes: number of values of each tensor, in the order of the draws.
        dtypes: of each tensor, float32 or float64.
        holds_value: whether the generator caches a value of an earlier draw of fewer than 16 values.
    """
    parts: list[Pairs] = []
    value = output = 0
    for size, dtype in zip(sizes, dtypes, strict=True):
        if size < BLOCK:
            fresh = max(0, size - holds_value)
            output += _OUTPUTS_A_SMALL_PAIR * math.ceil(fresh / 2)
            holds_value = bool(fresh % 2) if size else holds_value
        else:
            parts.append(_blocks(size, dtype, value, output))
            output += _WIDTH[dtype] * (size + (BLOCK if size % BLOCK else 0))
        value += size
    names = ("cosine", "sine", "radius", "angle", "first_bit")
    return Pairs(*(np.concatenate([np.zeros(0, np.intp), *(getattr(p, name) for p in parts)]) for name in names))


def margins(z: NDArray[np.float64], pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the bits of the uniforms behind pairs of values, and how far each value may be off without changing them.

    Args:
        z: all values, of mean 0 and variance 1 but for the update.
        pairs: of them.

    Returns:
        Margins, (2, bits, n), in units of `z`, and bits: of the radius' uniform, then of the angle's, highest first.
    """
    first, second = z[pairs.cosine], z[pairs.sine]
    radius = np.hypot(first, second)
    turn = np.arctan2(second, first) / (2 * math.pi) % 1.0
    uniform = -np.expm1(-(radius**2) / 2)
    margin = np.empty((2, MOST_BITS, len(pairs)))
    bits = np.empty((2, MOST_BITS, len(pairs)), np.bool_)
    for bit in range(MOST_BITS):
        cells = 2.0 ** (bit + 1)
        cell = np.minimum(np.floor(uniform * cells), cells - 1)
        low, high = (_radius_of(edge / cells) for edge in (cell, cell + 1))
        margin[0, bit] = np.minimum(np.where(cell > 0, radius - low, np.inf), high - radius)
        bits[0, bit] = cell % 2 == 1
        cell = np.floor(turn * cells) % cells
        angle_margin = 2 * math.pi * np.minimum(turn - cell / cells, (cell + 1) / cells - turn)
        margin[1, bit] = radius * np.sin(np.minimum(angle_margin, math.pi / 2))
        bits[1, bit] = cell % 2 == 1
    margin /= math.sqrt(2)  # both values of a pair may be off
    rounding = 2.0**-22 * (2 + radius)
    return margin - rounding, bits


def _blocks(size: int, dtype: torch.dtype, value: int, output: int) -> Pairs:
    whole = size - size % BLOCK
    starts = np.arange(0, whole, BLOCK)
    cosine = (starts[:, None] + np.arange(_HALF)).ravel()
    draws = cosine
    if size % BLOCK:
        kept = cosine + _HALF < size - BLOCK  # the last 16 values are drawn again
        last = size - BLOCK + np.arange(_HALF)
        cosine = np.concatenate([cosine[kept], last])
        draws = np.concatenate([draws[kept], size + np.arange(_HALF)])
    width = _WIDTH[dtype]
    return Pairs(
        value + cosine,
        value + cosine + _HALF,
        output + width * draws,
        output + width * (draws + _HALF),
        np.full(len(cosine), FIRST_BIT[dtype]),
    )


def _radius_of(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Box-Muller radius of a uniform, infinite at 1."""
    with np.errstate(divide="ignore"):
        return np.sqrt(-2 * np.log1p(-uniform))
