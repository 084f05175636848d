"""Gaussian values of torch on CUDA: Philox 4x32-10 with a subsequence per thread, and Box-Muller on its outputs.

Sources: Salmon et al. 2011, doi 10.1145/2063384.2063405; torch's DistributionTemplates.h and NVIDIA's curand_normal.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_THREADS = 256
# Threads that a GPU runs at once: multiprocessors times threads of each. T4, RTX 3090, V100, RTX 4090, A100, H100.
GPU_THREADS = (40 * 1024, 82 * 1536, 80 * 2048, 128 * 1536, 108 * 2048, 132 * 2048)

_ROUNDS, _LANES = 10, 4
_FACTORS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_WORD, _MASK = np.uint64(32), np.uint64(0xFFFFFFFF)

_Words = NDArray[np.uint64]


def philox(counter: Sequence[_Words], key: Sequence[_Words]) -> tuple[_Words, _Words, _Words, _Words]:
    """Return the four 32-bit output words, in 64-bit arrays, for counters and keys as 32-bit words in such arrays."""
    a, b, c, d = counter
    low, high = key
    for _ in range(_ROUNDS):
        first, second = a * _FACTORS[0], c * _FACTORS[1]
        a, b, c, d = (second >> _WORD) ^ b ^ low, second & _MASK, (first >> _WORD) ^ d ^ high, first & _MASK
        low, high = (low + _STEPS[0]) & _MASK, (high + _STEPS[1]) & _MASK
    return a, b, c, d


def first_normals(seeds: _Words, place: int) -> NDArray[np.float64]:
    """Return value number `place` (below 40,960) of the first float32 tensor that each seed draws."""
    zero = np.zeros_like(seeds)
    outputs = philox((zero, zero, zero + np.uint64(place), zero), (seeds & _MASK, seeds >> _WORD))
    return _normal(outputs[0], outputs[1])[0]


def draw_like(values: Sequence[Tensor], seed: int, threads: int) -> list[Tensor]:
    """Return the float32 noise that a GPU of so many threads draws from a fresh seed, a tensor for each value."""
    result: list[Tensor] = []
    offset = 0
    for value in values:
        count = value.numel()
        if not count:
            result.append(torch.empty_like(value))
            continue
        used = min(threads, -(-count // BLOCK_THREADS) * BLOCK_THREADS)
        calls = -(-count // (used * _LANES))
        lanes = [lane for call in range(calls) for lane in _four(seed, offset + call, used)]
        result.append(torch.from_numpy(np.concatenate(lanes)[:count]).reshape(value.shape).to(value.dtype))
        offset += calls
    return result


def _four(seed: int, offset: int, threads: int) -> tuple[NDArray[np.float64], ...]:
    subsequences = np.arange(threads, dtype=np.uint64)
    zero = np.zeros_like(subsequences)
    key = (zero + np.uint64(seed & 0xFFFFFFFF), zero + np.uint64(seed >> 32))
    first, second, third, fourth = philox((zero + np.uint64(offset), zero, subsequences, zero), key)
    return (*_normal(first, second), *_normal(third, fourth))


def _normal(radius: _Words, angle: _Words) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    u, turn = (radius + 0.5) / 2.0**32, 2 * np.pi * (angle + 0.5) / 2.0**32
    length = np.sqrt(-2 * np.log(u))
    return length * np.sin(turn), length * np.cos(turn)
