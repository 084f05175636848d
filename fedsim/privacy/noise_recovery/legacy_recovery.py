"""State of NumPy's legacy generator (``numpy.random.normal``, ``RandomState``) from Gaussian noise behind an update.

The positions of values in the stream follow from values that the update left unchanged to about 2^-23, such as those
of border pixels or of absent tokens. The noise must be known in standard deviations as exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.noise_recovery import mersenne, polar
from fedsim.privacy.noise_recovery.elimination import LinearSystem
from fedsim.privacy.noise_recovery.result import (
    AGREES,
    ComputedNoise,
    UnknownNoise,
    disagreement,
    fitting_part,
    flatten_tensors,
)

GENERATOR = "MT19937 (numpy.random, legacy)"

_CHUNK = 1 << 13  # pairs in which positions are searched together: residuals of longer chains do not converge
_MOST_VALUES = 1 << 21  # in which positions are searched: some 10 seconds
_FEWEST_PAIRS = 1_200  # all bits of fewer pairs have a rank below 19,937
_MOST_PAIRS = 6_000  # that give equations: more cost time and add no rank
_BITS = polar.DEPTH  # of a uniform that give equations
_ROUNDING = 2.0**-24  # of a uniform behind a float32 value
_SURPLUS = 500  # equations beyond the rank: each notices a mistake with probability 1/2
_FURTHER = 2_000  # equations that are added where the rank is too low


def recover_legacy_state(values: Sequence[Tensor], seconds: float = math.inf) -> ComputedNoise | UnknownNoise:
    """Return noise of variance 1 that NumPy's legacy generator added to an update, by recovering the generator's state.

    Args:
        values: the noisy update, in standard deviations of the noise to about 2^-23: a tensor for each call of
            ``numpy.random.normal``, in the order of the calls, float32 or float64.
        seconds: after which no further attempt is begun.
    """
    start = time.perf_counter()
    z = flatten_tensors(values).numpy()
    reason = "too few values are the noise alone to show their positions in the stream of the polar method"
    for attempt in _attempts(z[:_MOST_VALUES]):
        if time.perf_counter() - start > seconds:
            return UnknownNoise(f"the time of {seconds:g} seconds is over; {reason}", time.perf_counter() - start)
        solved = _solve(attempt.pairs, attempt.positions)
        if isinstance(solved, str):
            reason = solved
            continue
        noise = _noise(values, solved.solve().view(np.uint32).copy(), attempt.before, attempt.pair_offset)
        found = _result(values, noise, solved, attempt.used, time.perf_counter() - start)
        if found.disagreement <= AGREES:
            return found
        reason = f"the recovered state disagrees by {found.disagreement:.2f} deviations of the noise"
    return UnknownNoise(reason, time.perf_counter() - start)


class _Attempt(NamedTuple):
    """Pairs of a chunk with their positions.

    Attributes:
        pair_offset: 1 if the first value of the message is the second of a pair, else 0.
        start: pairs of the message before the chunk.
        pairs: values of the chunk, (n, 2).
        positions: positions.
    """

    pair_offset: int
    start: int
    pairs: NDArray[np.float64]
    positions: polar.Placed

    @property
    def before(self) -> int:
        """Pairs of the message before the first placed pair."""
        return self.start + int(self.positions.pairs[0])

    @property
    def used(self) -> NDArray[np.intp]:
        """Indices in the message of the values of placed pairs."""
        return (self.pair_offset + 2 * (self.start + self.positions.pairs[:, None]) + np.arange(2)).ravel()


def _attempts(z: NDArray[np.float64]) -> list[_Attempt]:
    """Return the chunks that place enough pairs for equations of full rank, those with most pairs first."""
    attempts = [
        _Attempt(held, chunk.start, pairs[chunk], polar.place(pairs[chunk]))
        for held in (0, 1)
        for pairs in [z[held : held + (len(z) - held) // 2 * 2].reshape(-1, 2)]
        for chunk in polar.chunks(len(pairs), _CHUNK)
    ]
    enough = (attempt for attempt in attempts if len(attempt.positions.pairs) >= _FEWEST_PAIRS)
    return sorted(enough, key=lambda attempt: -len(attempt.positions.pairs))


def _solve(pairs: NDArray[np.float64], placed: polar.Placed) -> LinearSystem | str:
    """Return the equations of full rank of the state before the first placed pair, or the reason of a failure."""
    chosen = slice(0, _MOST_PAIRS)
    uniform = polar.uniforms(pairs[placed.pairs[chosen]])
    bit, which, pair = np.nonzero(_certain(uniform))  # leading bits first: fewer relations hold between them
    outputs = polar.OUTPUTS * placed.attempts[pair] + 2 * which
    system = LinearSystem(mersenne.COLUMNS)
    for part in _parts(len(bit)):
        by_place = np.lexsort((outputs[part], -bit[part]))
        bits, places = bit[part][by_place], outputs[part][by_place]
        edges = np.searchsorted(-bits, np.arange(1 - mersenne.BITS, 2))
        rows = mersenne.rows([places[low:high] for low, high in pairwise(edges)])
        seen = uniform[which[part][by_place], pair[part][by_place]]
        system.add(rows, (np.floor(seen * 2.0 ** (bits + 1)) % 2).astype(np.uint8))
        if system.inconsistent:
            return f"{system.inconsistent:,} of {system.equations:,} equations contradict the others"
        if system.rank == mersenne.RANK:
            return system
    return f"{system.equations:,} equations have rank {system.rank:,}, expected {mersenne.RANK:,}"


def _certain(uniform: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether rounding leaves the leading bits of uniforms unchanged, (bits, 2, n)."""
    cells = 2.0 ** np.arange(1, _BITS + 1)[:, None, None]
    return np.floor((uniform - _ROUNDING) * cells) == np.floor((uniform + _ROUNDING) * cells)


def _parts(count: int) -> Iterator[slice]:
    start, stop = 0, mersenne.RANK + _SURPLUS
    while start < count:
        yield slice(start, stop)
        start, stop = stop, stop + _FURTHER


def _noise(values: Sequence[Tensor], state: mersenne.State, before: int, held: int) -> list[Tensor]:
    """Return the noise of all values.

    Args:
        values: of the message.
        state: before the attempt of a pair.
        before: number of pairs of the message before it.
        held: 1 if the first value of the message is the second of a pair, which is then drawn too.
    """
    generator = _rewound(state, before + held)
    if held:
        generator.standard_normal()
    return [torch.as_tensor(generator.standard_normal(tuple(value.shape))).to(value.dtype) for value in values]


def _rewound(state: mersenne.State, pairs: int) -> np.random.RandomState:
    """Return NumPy's generator `pairs` accepted attempts before a state."""
    attempts = math.ceil(pairs / polar.ACCEPTED + 10 * math.sqrt(pairs)) + 1
    earlier = mersenne.rewind(state, polar.OUTPUTS * attempts)
    generator = np.random.RandomState()
    position = ("MT19937", earlier, mersenne.WORDS, 0, 0.0)
    generator.set_state(position)
    is_accepted = polar.is_accepted(generator.random_sample((attempts, 2)))
    skipped = int(np.flatnonzero(is_accepted)[-pairs]) if pairs else attempts
    generator.set_state(position)
    generator.random_sample(2 * skipped)
    return generator


def _result(
    values: Sequence[Tensor], noise: list[Tensor], system: LinearSystem, used: NDArray[np.intp], seconds: float
) -> ComputedNoise:
    part = fitting_part(values, noise)
    compared = torch.cat([torch.full((v.numel(),), fit) for v, fit in zip(values, part.fits, strict=True)])
    held_out = compared.clone()
    held_out[torch.from_numpy(used)] = False
    if held_out.any():
        compared = held_out
    error = disagreement(flatten_tensors(values)[compared], flatten_tensors(noise)[compared])
    return ComputedNoise(
        part.noise,
        GENERATOR,
        "state",
        len(used),
        system.equations,
        system.rank,
        system.inconsistent,
        error,
        seconds,
        part.fraction,
    )
