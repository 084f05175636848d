"""Gaussian noise from ChaCha20 keyed by the operating system, for noise that leaves a real node.

torch's and NumPy's generators are made for simulation: an observer of enough noise can compute the rest
(`fedsim.privacy.noise_recovery`). Every call draws a new key and keeps no state: a fork, a copy by ``deepcopy``, a
resumed process or another thread never repeats noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.stream import secret_bytes

_CHUNK = 1 << 18  # pairs of values that are drawn at once


def normal(like: Tensor, draw: Callable[[int], bytes] = secret_bytes) -> Tensor:
    """Return Gaussian noise of mean 0 and variance 1, with the shape, type and device of a tensor.

    Box-Muller on uniforms of 53 bits, computed in float64. The largest value is 8.6.

    Args:
        like: the tensor.
        draw: returns so many uniform bytes. A simulation gives the stream of a key that derives from its seed.
    """
    count = like.numel()
    values = torch.empty(count + count % 2, dtype=like.dtype)
    words = torch.from_numpy(np.frombuffer(draw(8 * len(values)), np.int64).copy())
    for start in range(0, len(values), 2 * _CHUNK):
        part = slice(start, start + 2 * _CHUNK)
        values[part] = _normals(words[part]).to(like.dtype)
    return values[:count].reshape(like.shape).to(like.device)


def _normals(words: Tensor) -> Tensor:
    """Return float64 normal values from an even number of uniform 64-bit words: cosines, then sines."""
    count = len(words) // 2
    uniforms = ((words >> 11) & ((1 << 53) - 1)).double().add_(1.0).mul_(2.0**-53)
    radius = uniforms[:count].log_().mul_(-2.0).sqrt_()
    angle = uniforms[count:].mul_(2.0 * math.pi)
    return torch.cat((radius * angle.cos(), radius * angle.sin()))
