"""Exact samples of the discrete Gaussian in integer arithmetic, so that no rounding leaks the value under the noise.

Source: Canonne, Kamath, Steinke 2020, arXiv 2004.00010, algorithms 1 to 3; rounding of continuous noise: Mironov 2012.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.stream import secret_bytes

STEPS = 1 << 20
"""Steps of the grid in a standard deviation of the noise."""

_Integers = NDArray[np.int64]
_Chosen = NDArray[np.bool_]
_WORD_BYTES = 8
_MOST = 1 << 20  # proposals at once


def add_discrete(tensor: Tensor, deviation: float) -> Tensor:
    """Return a tensor on a grid plus discrete Gaussian noise, in its type.

    Values are cut towards 0 to multiples of ``deviation / 2**20``, which makes no norm larger. Sums on the grid are
    exact in float64 for values up to 2**32 deviations; the type's rounding follows and is data processing.

    Args:
        tensor: float32 or float64.
        deviation: standard deviation; at 0 the tensor comes back as it is.
    """
    if not deviation:
        return tensor.clone()
    step = deviation / STEPS
    grid = torch.trunc(tensor.detach().double().cpu() / step)
    noise = torch.from_numpy(discrete_normal(tensor.numel(), STEPS)).reshape(tensor.shape)
    return ((grid + noise) * step).to(dtype=tensor.dtype, device=tensor.device)


def discrete_normal(count: int, scale: int) -> _Integers:
    """Return `count` integers with probabilities proportional to exp(-x**2 / (2 scale**2)), int64.

    Args:
        count: at least 0.
        scale: from 1 to 2**28.
    """
    source, kept, missing = _Words(), [np.zeros(0, np.int64)], count
    while missing > 0:
        proposed = _discrete_laplace(source, min(missing + missing // 2 + 16, _MOST), scale)
        accepted = _with_exp(source, (np.abs(proposed) - scale) ** 2, 2 * scale**2)
        kept.append(proposed[accepted][:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept)


class _Words:
    """Uniform integers from ChaCha20."""

    def integers_below(self, bound: int, count: int) -> _Integers:
        """Return integers in [0, bound), without bias; `bound` is at most 2**62."""
        mask = (1 << (bound - 1).bit_length()) - 1
        numbers = self._draw(count, mask)
        while len(rejected := np.flatnonzero(numbers >= bound)):
            numbers[rejected] = self._draw(len(rejected), mask)
        return numbers

    def _draw(self, count: int, mask: int) -> _Integers:
        return np.frombuffer(secret_bytes(_WORD_BYTES * count), np.int64) & mask


def _discrete_laplace(source: _Words, count: int, scale: int) -> _Integers:
    """Return at most `count` integers with probabilities proportional to exp(-|x| / scale)."""
    low = source.integers_below(scale, count)
    low = low[_with_exp(source, low, scale)]
    high = np.zeros(len(low), np.int64)
    alive = np.arange(len(low))
    while len(alive):
        alive = alive[_with_exp(source, np.ones(len(alive), np.int64), 1)]
        high[alive] += 1
    value, is_negative = low + scale * high, source.integers_below(2, len(low)) == 1
    kept = ~(is_negative & (value == 0))
    return np.where(is_negative, -value, value)[kept]


def _with_exp(source: _Words, numerators: _Integers, denominator: int) -> _Chosen:
    """Return booleans, True with probability exp(-numerator / denominator) at each position."""
    whole, remainder = np.divmod(numerators, denominator)
    result = np.ones(len(numerators), np.bool_)
    alive = np.flatnonzero(whole)
    while len(alive):
        lives = _with_small_exp(source, np.ones(len(alive), np.int64), 1)
        result[alive[~lives]] = False
        whole[alive] -= 1
        alive = alive[lives]
        alive = alive[whole[alive] > 0]
    places = np.flatnonzero(result)
    result[places] = _with_small_exp(source, remainder[places], denominator)
    return result


def _with_small_exp(source: _Words, numerators: _Integers, denominator: int) -> _Chosen:
    """Same as `_with_exp`, for numerators up to the denominator: parity of a run of successes with shrinking odds."""
    result = np.zeros(len(numerators), np.bool_)
    alive, number = np.arange(len(numerators)), 1
    while len(alive):
        succeeds = source.integers_below(denominator * number, len(alive)) < numerators[alive]
        result[alive[~succeeds]] = number % 2 == 1
        alive, number = alive[succeeds], number + 1
    return result
