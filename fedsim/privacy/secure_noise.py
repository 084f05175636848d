"""Gaussian noise from ChaCha20 keyed by the operating system, for noise that leaves a real node.

torch's and NumPy's generators are made for simulation: who sees enough of their noise computes the rest
(`fedsim.privacy.noise_recovery`). Every call here takes a new key, and nothing outlives it: a fork, a copy by
``deepcopy``, a resumed process or another thread never repeats noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.stream import secret_bytes

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer

_CHUNK = 1 << 18  # pairs of values that are drawn at once
_OptimizerT = TypeVar("_OptimizerT", bound="DPOptimizer")


def normal(like: Tensor) -> Tensor:
    """Return Gaussian noise of mean 0 and variance 1, with the shape, type and device of a tensor.

    Box-Muller on uniforms of 53 bits, computed in float64. The largest value is 8.6.
    """
    count = like.numel()
    values = torch.empty(count + count % 2, dtype=like.dtype)
    for start in range(0, len(values), 2 * _CHUNK):
        part = values[start : start + 2 * _CHUNK]
        part.copy_(_pairs(len(part) // 2))
    return values[:count].reshape(like.shape).to(like.device)


def add_normal(tensor: Tensor, deviation: float) -> Tensor:
    """Return a tensor plus Gaussian noise of a standard deviation."""
    return tensor + deviation * normal(tensor)


def secure(optimizer: _OptimizerT) -> _OptimizerT:
    """Have an optimizer of Opacus draw its noise from ChaCha20, and return it.

    ``optimizer = secure(optimizer)`` after ``PrivacyEngine.make_private``, with any clipping by example, ghost clipping
    or Poisson sampling. Everything else of the optimizer stays as it is.

    Raises:
        FedsimError: it is no optimizer of Opacus, or of a kind that draws noise elsewhere too (adaptive clipping,
            several processes).
    """
    from fedsim.privacy.secure_optimizer import secured  # noqa: PLC0415 - Opacus takes a second to import

    return secured(optimizer)


def _pairs(count: int) -> Tensor:
    """Return `count` cosines, then `count` sines, float64."""
    words = torch.from_numpy(np.frombuffer(secret_bytes(16 * count), np.int64).copy())
    uniforms = ((words >> 11) & ((1 << 53) - 1)).double().add_(1.0).mul_(2.0**-53)
    radius = uniforms[:count].log_().mul_(-2.0).sqrt_()
    angle = uniforms[count:].mul_(2.0 * math.pi)
    return torch.cat((radius * angle.cos(), radius * angle.sin()))
