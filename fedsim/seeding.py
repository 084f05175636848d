"""Randomness is an argument: every generator is derived from (seed, purpose, round, client, step).

Nothing here touches the global random state for good, so results do not depend on scheduling or on
what ran before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count

import numpy as np
import torch

_WORD = (1 << 32) - 1
_HALF = np.uint32(16)
_POOL = 4


def derive(seed: int, purpose: str, *path: int) -> int:
    """Return a 63-bit seed for one purpose at one place of a run.

    Args:
        seed: the scenario's seed.
        purpose: what the randomness is for, for example ``"dropout"``.
        path: round, client, step or any other non-negative coordinates, in a fixed order.
    """
    sequence = np.random.SeedSequence([seed, _label(purpose), *path])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generators(seed: int, purpose: str, paths: Sequence[tuple[int, ...]]) -> list[torch.Generator]:
    """Return `generator` of many places at once: coordinates below 2**32, the same number in each path.

    NumPy's seed sequence takes ten microseconds a call, a good part of a small client's round; this is the same
    hash over arrays.
    """
    words = [word for number in (seed, _label(purpose)) for word in _words(number)]
    entropy = [np.full(len(paths), word, np.uint32) for word in words] + list(np.array(paths, np.uint32).T)
    low, high = _seed_sequence(entropy)
    seeds = (high.astype(np.uint64) << np.uint64(32) | low) >> np.uint64(1)
    return [torch.Generator().manual_seed(number) for number in seeds.tolist()]


def generator(seed: int, purpose: str, *path: int) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *path))


@contextmanager
def contained(seed: int) -> Generator[None]:
    """Run foreign code that draws from torch's global CPU generator reproducibly, and leave no trace.

    Weight initialisation and user modules have no generator argument; inside this block the global
    generator starts from `seed`, afterwards it is as it was.
    """
    before = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(before)


@cache
def _label(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def _words(number: int) -> list[int]:
    """Return the 32-bit words of a number, lowest first, at least one."""
    words = [number & _WORD]
    while number := number >> 32:
        words.append(number & _WORD)
    return words


def _seed_sequence(entropy: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two 32-bit words of NumPy's SeedSequence of arrays of 32-bit words (O'Neill's seed_seq)."""
    constants = _constants(0x43B0D7E5, 0x931E8875)

    def hashed(word: np.ndarray) -> np.ndarray:
        word = (word ^ next(constants)) * next(constants)
        return word ^ (word >> _HALF)

    def mixed(word: np.ndarray, other: np.ndarray) -> np.ndarray:
        word = np.uint32(0xCA01F9DD) * word - np.uint32(0x4973F715) * hashed(other)
        return word ^ (word >> _HALF)

    blank = np.zeros_like(entropy[0])
    pool = [hashed(word) for word in [*entropy, blank, blank, blank, blank][:_POOL]]
    for source in range(_POOL):
        for place in range(_POOL):
            if source != place:
                pool[place] = mixed(pool[place], pool[source])
    for word in entropy[_POOL:]:
        pool = [mixed(own, word) for own in pool]
    constants = _constants(0x8B51F9DD, 0x58F38DED)
    return hashed(pool[0]), hashed(pool[1])


def _constants(start: int, factor: int) -> Iterator[np.uint32]:
    """Yield start, start * factor, and then, as the hash uses each product twice, every power twice."""
    for power in count():
        value = np.uint32(start * pow(factor, power, 1 << 32) & _WORD)
        yield value
        if power:
            yield value
