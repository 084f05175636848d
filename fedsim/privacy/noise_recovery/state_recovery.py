"""State of MT19937 from Gaussian noise that torch drew on the CPU, by linear algebra over GF(2).

Each leading bit of a uniform gives an equation. Bits are used in descending order of their margins, the smallest error
of a value that flips the bit. No bound on the update is needed: with more values, the smallest used margin grows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.noise_recovery import box_muller, mersenne
from fedsim.privacy.noise_recovery.box_muller import Pairs
from fedsim.privacy.noise_recovery.elimination import LinearSystem
from fedsim.privacy.noise_recovery.result import (
    AGREES,
    ComputedNoise,
    UnknownNoise,
    disagreement,
    fitting_part,
    flatten_tensors,
)
from fedsim.privacy.noise_recovery.torch_state import generator_from

GENERATOR = "MT19937 (torch CPU)"
FEWEST_BITS = mersenne.RANK

_SPANS = (1 << 15, 1 << 17, 1 << 18)  # values that are looked at: more take longer and allow a larger update
_SURPLUS = 500  # equations beyond the rank: each notices a mistake with probability 1/2
_FURTHER = 2_000  # equations that are added where the rank is too low
_MOST_FURTHER = 10  # times


def recover_state(
    values: Sequence[Tensor], quiet: Sequence[Tensor] | None = None, seconds: float = float("inf")
) -> ComputedNoise | UnknownNoise:
    """Return noise of variance 1 that torch's CPU generator added to an update, by recovering the generator's state.

    Args:
        values: the noisy update, in standard deviations of the noise: a tensor for each call of ``normal_``, in the
            order of the calls, float32 or float64.
        quiet: for each tensor a mask of its shape, True where the update is thought to be 0 or small against the noise;
            by default everywhere. If this fails, all values are used.
        seconds: after which no further attempt is begun.
    """
    start = time.perf_counter()
    why = _why_impossible(values)
    if why is not None:
        return UnknownNoise(why, time.perf_counter() - start)
    z = flatten_tensors(values)
    reason = "too few values"
    for pairs in _attempts(values, quiet):
        if time.perf_counter() - start > seconds:
            return UnknownNoise(f"the time of {seconds:g} seconds is over; {reason}", time.perf_counter() - start)
        solved = _solve(z.numpy(), pairs)
        if isinstance(solved, str):
            reason = solved
            continue
        noise, fraction, error = _regenerate(values, z, solved, quiet)
        if error > AGREES:
            reason = f"the recovered state disagrees with held-out values by {error:.2f} deviations of the noise"
            continue
        system = solved.system
        return ComputedNoise(
            noise,
            GENERATOR,
            "state",
            len(solved.used),
            system.equations,
            system.rank,
            system.inconsistent,
            error,
            time.perf_counter() - start,
            fraction,
        )
    return UnknownNoise(reason, time.perf_counter() - start)


def draw_like(values: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return a tensor of ``normal_`` for each tensor, of its shape and type, drawn in order."""
    return [torch.empty(value.shape, dtype=value.dtype).normal_(generator=generator) for value in values]


@dataclass(frozen=True)
class _Solved:
    state: mersenne.State  # before the outputs of the first pair
    first: int  # number of that pair's first value
    system: LinearSystem
    used: NDArray[np.intp]  # numbers of values


def _why_impossible(values: Sequence[Tensor]) -> str | None:
    unknown = [value.dtype for value in values if not box_muller.is_supported(value.dtype)]
    if unknown:
        return f"values have type {unknown[0]}, expected float32 or float64: coarser types hide the generator's bits"
    size = sum(value.numel() for value in values if value.numel() >= box_muller.BLOCK)
    # A value shows at most 18 bits; a standard normal pair shows some 30 of its two uniforms.
    fewest = FEWEST_BITS // box_muller.MOST_BITS
    if size < fewest:
        return f"{size:,} values are too few: the state has {FEWEST_BITS:,} bits, and a value shows fewer than 18"
    return None


def _regenerate(
    values: Sequence[Tensor], z: Tensor, solved: _Solved, quiet: Sequence[Tensor] | None
) -> tuple[list[Tensor], float, float]:
    """Return the noise that fits, the fraction of values that it fits, and its disagreement with held-out values."""
    comparable = torch.ones(len(z), dtype=torch.bool) if quiet is None else torch.cat([m.flatten() for m in quiet])
    held_out = comparable.clone()
    held_out[torch.from_numpy(solved.used)] = False
    if not held_out.any():
        held_out = comparable
    noise = _repeat(values, z, solved, held_out)
    part = fitting_part(values, noise)
    is_fitting = torch.cat([torch.full((v.numel(),), fit) for v, fit in zip(values, part.fits, strict=True)])
    compared = held_out & is_fitting
    if not compared.any():
        compared = comparable & is_fitting
    return part.noise, part.fraction, disagreement(z[compared], flatten_tensors(noise)[compared])


def _repeat(values: Sequence[Tensor], z: Tensor, solved: _Solved, held_out: Tensor) -> list[Tensor]:
    """Return all noise, with or without a value that the generator kept before the message, whichever fits better."""
    small = torch.cat([torch.full((v.numel(),), v.numel() < box_muller.BLOCK) for v in values])
    compared = small if small.any() else held_out
    candidates: list[list[Tensor]] = []
    for holds_value in (False, True)[: 1 + bool(small.any())]:
        pairs = box_muller.layout(*_sizes(values), holds_value)
        origin = int(pairs.radius[np.searchsorted(pairs.cosine, solved.first)])
        candidates.append(draw_like(values, generator_from(mersenne.rewind(solved.state, origin), holds_value)))
    return min(candidates, key=lambda noise: disagreement(z[compared], flatten_tensors(noise)[compared]))


def _sizes(values: Sequence[Tensor]) -> tuple[list[int], list[torch.dtype]]:
    return [value.numel() for value in values], [value.dtype for value in values]


def _attempts(values: Sequence[Tensor], quiet: Sequence[Tensor] | None) -> Iterator[Pairs]:
    """Yield the sets of pairs to test, fast attempts first."""
    sizes, dtypes = _sizes(values)
    has_small = any(0 < size < box_muller.BLOCK for size in sizes)
    masks = [] if quiet is None else [torch.cat([mask.flatten() for mask in quiet]).numpy()]
    largest = int(np.argmax(sizes))
    begin = sum(sizes[:largest])
    for mask in (*masks, None):
        tried: set[bytes] = set()
        for span in _SPANS:
            for holds_value in (False, True)[: 1 + has_small]:
                pairs = box_muller.layout(sizes, dtypes, holds_value)
                if mask is not None:
                    pairs = pairs[mask[pairs.cosine] & mask[pairs.sine]]
                pairs = _window(pairs, begin, span)
                outputs = (pairs.radius - pairs.radius[:1]).tobytes()
                if outputs not in tried:
                    yield pairs
                tried.add(outputs)


def _window(pairs: Pairs, begin: int, span: int) -> Pairs:
    """Return at most span / 2 consecutive pairs, starting at a value if enough pairs follow it."""
    count = min(len(pairs), span // 2)
    first = min(int(np.searchsorted(pairs.cosine, begin)), len(pairs) - count)
    return pairs[slice(first, first + count)]


def _solve(z: NDArray[np.float64], pairs: Pairs) -> _Solved | str:
    """Return the state before the first output of pairs, or the reason of the failure."""
    if not len(pairs):
        return "too few values"
    margin, bits = box_muller.margins(z, pairs)
    order = np.argsort(-margin, axis=None, kind="stable")
    order = order[: int(np.count_nonzero(margin > 0))]
    if len(order) < FEWEST_BITS:
        return f"{len(order):,} bits are certain, fewer than the {FEWEST_BITS:,} of the state"
    system, used = LinearSystem(mersenne.COLUMNS), np.zeros(0, np.intp)
    offset, size = 0, FEWEST_BITS + _SURPLUS
    for _ in range(_MOST_FURTHER):
        chosen = order[offset : offset + size]
        if not len(chosen):
            break
        used = np.union1d(used, _add(system, chosen, bits, pairs))
        offset, size = offset + len(chosen), _FURTHER
        if system.inconsistent > max(1, system.equations // 1000):
            return f"{system.inconsistent:,} of {system.equations:,} equations contradict the others"
        if system.rank == mersenne.RANK:
            return _Solved(system.solve().view(np.uint32).copy(), int(pairs.cosine[0]), system, used)
    return f"{system.equations:,} equations have rank {system.rank:,}, expected {mersenne.RANK:,}"


def _add(system: LinearSystem, chosen: NDArray[np.intp], bits: NDArray[np.bool_], pairs: Pairs) -> NDArray[np.intp]:
    """Add the equations of bits, and return the indices of the values behind them."""
    uniform, bit, pair = np.unravel_index(chosen, bits.shape)
    output = np.where(uniform == 0, pairs.radius[pair], pairs.angle[pair]) - pairs.radius[0]
    place = pairs.first_bit[pair] - bit
    by_place = np.lexsort((output, place))
    edges = np.searchsorted(place[by_place], np.arange(mersenne.BITS + 1))
    places = [output[by_place[low:high]] for low, high in pairwise(edges)]
    constants = bits[uniform[by_place], bit[by_place], pair[by_place]]
    system.add(mersenne.rows(places), constants.astype(np.uint8))
    return np.unique(np.concatenate([pairs.cosine[pair], pairs.sine[pair]]))
