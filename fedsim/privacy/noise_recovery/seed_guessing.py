"""Seed of a generator from the first Gaussian values that it drew: small and usual seeds are tried.

All seeds are expanded at once, value by value, and a seed is dropped at the first value that is too far away.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from statistics import NormalDist
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.noise_recovery import mersenne
from fedsim.privacy.noise_recovery.box_muller import BLOCK, FIRST_BIT, layout
from fedsim.privacy.noise_recovery.philox import GPU_THREADS, first_normals
from fedsim.privacy.noise_recovery.philox import draw_like as draw_philox
from fedsim.privacy.noise_recovery.result import (
    AGREES,
    ComputedNoise,
    UnknownNoise,
    disagreement,
    fitting_part,
    flatten_tensors,
)
from fedsim.privacy.noise_recovery.state_recovery import GENERATOR, draw_like

SMALL_SEEDS = 1 << 20
TORCH_DEFAULT = 67280421310721
"""Default seed of ``torch.Generator()``."""

Seeds = NDArray[np.uint64]
Values = NDArray[np.float64]

_NEAR = 1.2  # largest difference of a value, in standard deviations: exceeded by 40 % of values of wrong seeds
_FEWEST = 12  # values
_FALSE_ALARM = 1e-6 / 2**23  # probability of a wrong seed, of 2^20 seeds and the usual seeds of four generators
_MOST_OUTPUTS = 200  # after a seed
_ATTEMPTS = 12  # of the polar method, of which more than 6 are accepted nearly always
_PHILOX_COMPARED = 32
_COMPARED = 64  # values that are compared before all are


class _Seeded(ABC):
    """A generator with seeds to test."""

    name: ClassVar[str]
    most_seeds: ClassVar[int] = SMALL_SEEDS

    @abstractmethod
    def near(self, seeds: Seeds, values: Sequence[Tensor], z: Values) -> Seeds:
        """Return the seeds with first values near the observed values `z`."""

    @abstractmethod
    def draw(self, seed: int, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the noise of a seed, a tensor for each observed tensor."""


def guess_seed(values: Sequence[Tensor], most_seeds: int = SMALL_SEEDS) -> ComputedNoise | UnknownNoise:
    """Return the noise of variance 1 that a generator with a small or usual seed added to an update.

    The tested generators are torch's CPU generator, Philox of CUDA, NumPy's ``RandomState`` and ``default_rng``
    (PCG64), each from its first draw on.

    Args:
        values: the noisy update, in standard deviations of the noise: a tensor for each draw, in order.
        most_seeds: number of seeds from 0 to test, besides usual seeds.
    """
    start = time.perf_counter()
    z = flatten_tensors(values).numpy()
    if len(z) < _FEWEST:
        return UnknownNoise(f"{len(z)} values are too few to recognise a seed", time.perf_counter() - start)
    for generator in _GENERATORS:
        for seeds in _seeds(min(most_seeds, generator.most_seeds)):
            for seed in generator.near(seeds, values, z).tolist():
                confirmed = _confirm_seed(generator, seed, values, start)
                if confirmed is not None:
                    return confirmed
    tried = ", ".join(generator.name for generator in _GENERATORS)
    return UnknownNoise(f"no small or usual seed of {tried} fits", time.perf_counter() - start)


def usual_seeds() -> list[int]:
    """Return seeds above 2**20 that programs use: powers of 2 and their neighbours, dates, defaults."""
    powers = [(1 << power) + step for power in range(20, 64) for step in (-1, 0, 1)]
    days = [100 * month + day for month in range(1, 13) for day in range(1, 32)]
    dates = [10_000 * year + day for year in range(1990, 2031) for day in days]
    return [*powers, *dates, TORCH_DEFAULT, 0xDEADBEEF, 0xCAFEBABE, 0x12345678, 123456789, 987654321]


def _seeds(limit: int) -> Iterator[NDArray[np.uint64]]:
    yield np.array(usual_seeds(), np.uint64)
    yield np.arange(limit, dtype=np.uint64)


def _confirm_seed(generator: _Seeded, seed: int, values: Sequence[Tensor], start: float) -> ComputedNoise | None:
    sizes = np.cumsum([value.numel() for value in values])
    first = values[: 1 + int(np.searchsorted(sizes, min(_COMPARED, sizes[-1])))]
    if disagreement(flatten_tensors(first), flatten_tensors(generator.draw(seed, first))) > AGREES:
        return None
    noise, count = generator.draw(seed, values), int(sizes[-1])
    error = disagreement(flatten_tensors(values), flatten_tensors(noise))
    if error > largest_disagreement(count):
        return None
    part = fitting_part(values, noise)
    seconds = time.perf_counter() - start
    return ComputedNoise(part.noise, generator.name, f"seed {seed}", count, 0, 0, 0, error, seconds, part.fraction)


def largest_disagreement(count: int) -> float:
    """Return the largest disagreement of `count` values with a seed's noise that identifies the seed.

    With probability 1 - 1e-6, the noise of 2^23 wrong seeds differs more: half of the differences, each N(0, 2), would
    be smaller with a probability of at most (4 p)^(count / 2), if p is the probability of a single difference.
    """
    share = _FALSE_ALARM ** (2 / count) / 4
    return min(AGREES, math.sqrt(2) * NormalDist().inv_cdf((1 + share) / 2))


def _close(noise: Any, seen: Any) -> NDArray[np.bool_]:
    return np.abs(noise - seen) < _NEAR


@final
class _TorchCpu(_Seeded):
    name = GENERATOR

    def near(self, seeds: Seeds, values: Sequence[Tensor], z: Values) -> Seeds:
        sizes = [value.numel() for value in values if value.numel()]
        small = sum(takewhile(lambda size: size < BLOCK, sizes))
        return self._filter_small(seeds, z, small) if small >= _FEWEST else self._filter_by_blocks(seeds, values, z)

    def _filter_by_blocks(self, seeds: Seeds, values: Sequence[Tensor], z: Values) -> Seeds:
        pairs = layout([value.numel() for value in values], [value.dtype for value in values], holds_value=False)
        pairs = pairs[pairs.angle < _MOST_OUTPUTS - 1][: _FEWEST // 2]
        if not len(pairs):
            return seeds[:0]
        outputs = mersenne.first_outputs(seeds.astype(np.uint32), int(pairs.angle.max()) + 2)
        for place in range(len(pairs)):
            block = pairs[np.array([place])]
            width = 1 if block.first_bit[0] == FIRST_BIT[torch.float32] else 2
            u1, u2 = _uniform(outputs, int(block.radius[0]), width), _uniform(outputs, int(block.angle[0]), width)
            fits = _fits(
                np.sqrt(-2 * np.log1p(-u1)), 2 * np.pi * u2, float(z[block.cosine[0]]), float(z[block.sine[0]])
            )
            seeds, outputs = seeds[fits], outputs[:, fits]
        return seeds

    def _filter_small(self, seeds: Seeds, z: Values, small: int) -> Seeds:
        """Return the near seeds if the first tensors have fewer than 16 values each, `small` in total."""
        pairs = min(small, _FEWEST) // 2
        outputs = mersenne.first_outputs(seeds.astype(np.uint32), 4 * pairs)
        for j in range(pairs):
            u1, u2 = _uniform(outputs, 4 * j, 2), _uniform(outputs, 4 * j + 2, 2)
            fits = _fits(np.sqrt(-2 * np.log1p(-u2)), 2 * np.pi * u1, z[2 * j], z[2 * j + 1])
            seeds, outputs = seeds[fits], outputs[:, fits]
        return seeds

    def draw(self, seed: int, like: Sequence[Tensor]) -> list[Tensor]:
        return draw_like(like, torch.Generator().manual_seed(seed))


@final
class _TorchCuda(_Seeded):
    name = "Philox (torch CUDA)"

    def near(self, seeds: Seeds, values: Sequence[Tensor], z: Values) -> Seeds:
        first = next(value for value in values if value.numel())
        for place in range(min(first.numel(), _PHILOX_COMPARED)):
            seeds = seeds[_close(first_normals(seeds, place), z[place])]
        return seeds

    def draw(self, seed: int, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the noise for the number of GPU threads that fits best."""
        seen = flatten_tensors(like)
        candidates = [draw_philox(like, seed, threads) for threads in GPU_THREADS]
        return min(candidates, key=lambda noise: disagreement(seen, flatten_tensors(noise)))


@final
class _NumpyLegacy(_Seeded):
    name = "MT19937 (numpy.random.seed, RandomState)"

    def near(self, seeds: Seeds, values: Sequence[Tensor], z: Values) -> Seeds:
        """Return the seeds with near first two values of the polar method."""
        seeds = seeds[seeds < 1 << 32]
        outputs = mersenne.first_outputs(seeds.astype(np.uint32), 4 * _ATTEMPTS)
        high, low = outputs[::2] >> np.uint32(5), outputs[1::2] >> np.uint32(6)
        points = 2 * ((high * 67108864.0 + low) / 9007199254740992.0) - 1
        x, y = points[::2], points[1::2]
        squared = x**2 + y**2
        accepted = (squared < 1) & (squared > 0)
        factor = np.sqrt(-2 * np.log(np.where(accepted, squared, 0.5)) / np.where(accepted, squared, 0.5))
        number, indices, fits = accepted.cumsum(0), np.arange(len(seeds)), np.ones(len(seeds), np.bool_)
        for pair in range(_FEWEST // 2):
            position, known = (number == pair + 1).argmax(0), number[-1] > pair
            first, second = (
                factor[position, indices] * y[position, indices],
                factor[position, indices] * x[position, indices],
            )
            fits &= ~known | (_close(first, z[2 * pair]) & _close(second, z[2 * pair + 1]))
        return seeds[fits]

    def draw(self, seed: int, like: Sequence[Tensor]) -> list[Tensor]:
        return _numpy_draws(np.random.RandomState(seed).normal, like)


@final
class _NumpyPcg(_Seeded):
    name = "PCG64 (numpy.random.default_rng)"
    most_seeds = 1 << 16  # 20 microseconds per seed, a hundred times as slow as the other generators

    def near(self, seeds: Seeds, values: Sequence[Tensor], z: Values) -> Seeds:
        def fits(seed: int) -> bool:
            generator = np.random.Generator(np.random.PCG64(seed))
            return bool(
                _close(generator.standard_normal(), z[0])
                and _close(generator.standard_normal(_FEWEST - 1), z[1:_FEWEST]).all()
            )

        return seeds[np.array([fits(seed) for seed in seeds.tolist()], np.bool_)]

    def draw(self, seed: int, like: Sequence[Tensor]) -> list[Tensor]:
        return _numpy_draws(np.random.default_rng(seed).normal, like)


_GENERATORS: tuple[_Seeded, ...] = (_TorchCpu(), _TorchCuda(), _NumpyLegacy(), _NumpyPcg())


def _uniform(outputs: NDArray[Any], place: int, width: int) -> Values:
    """Return a uniform of torch that begins at an output: 24 bits of an output, or 53 bits of two."""
    if width == 1:
        return (outputs[place] & np.uint32(0xFFFFFF)) / 2.0**24
    high, low = outputs[place].astype(np.uint64), outputs[place + 1].astype(np.uint64)
    return ((high << np.uint64(32) | low) & np.uint64((1 << 53) - 1)) / 2.0**53


def _fits(radius: Values, angle: Values, first: float, second: float) -> NDArray[np.bool_]:
    return _close(radius * np.cos(angle), first) & _close(radius * np.sin(angle), second)


def _numpy_draws(normal: Callable[..., Any], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.as_tensor(normal(0.0, 1.0, tuple(value.shape))).to(value.dtype) for value in like]
