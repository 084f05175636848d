"""Seeds and generators derived from (seed, purpose, round, client, step).

No function changes the global random state permanently, so results do not depend on scheduling or on earlier calls.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

_WORD = (1 << 32) - 1
_HALF = 16
_POOL = 4
_FILLED = _POOL * _POOL  # hashes that fill and mix a pool; each further word needs _POOL hashes
_IN, _OUT = (0x43B0D7E5, 0x931E8875), (0x8B51F9DD, 0x58F38DED)

Word = Any
"""A 32-bit word as an int, or an array of words in 64 bits, which holds a product."""


def derive(seed: int, purpose: str, *path: int) -> int:
    """Return a 63-bit seed for a purpose at a point of a run.

    Args:
        seed: the scenario's seed.
        purpose: use of the random numbers, for example ``"dropout"``.
        path: round, client, step or other non-negative coordinates, in a fixed order.
    """
    *before, last = (seed, _label(purpose), *path)
    if not 0 <= last <= _WORD or len(path) < _POOL - 1:
        return _seed(_pool([word for number in (*before, last) for word in _words(number)]))
    pool, words = _pool_of(tuple(before))
    return _seed(_absorb(pool, words, last))


def generators(seed: int, purpose: str, paths: Sequence[tuple[int, ...]]) -> list[torch.Generator]:
    """Return `generator` for many paths at once: coordinates below 2**32, equally many in each path."""
    if not paths:
        return []
    shared = [word for number in (seed, _label(purpose)) for word in _words(number)]
    columns = [np.full(len(paths), word, np.uint64) for word in shared] + list(np.array(paths, np.uint64).T)
    seeds = _seed(_pool(columns))
    return [torch.Generator().manual_seed(number) for number in seeds.tolist()]


def generator(seed: int, purpose: str, *path: int) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *path))


@contextmanager
def isolate_randomness(seed: int) -> Generator[None]:
    """Run third-party code that uses torch's global CPU generator reproducibly, and restore the generator.

    Weight initialisation and user modules have no generator argument; inside this block the global generator starts
    from `seed`, afterwards its state is restored.
    """
    _blocks.open()
    before = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(before)
        _blocks.close()


def count_isolated() -> tuple[int, int]:
    """Return how many blocks of `isolate_randomness` are open, in any thread, and how many were opened in total."""
    return _blocks.count_blocks()


class _Blocks:
    """Counts the blocks of `isolate_randomness`, inside which the global generator's state is uninformative."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = self._opened = 0

    def open(self) -> None:
        with self._lock:
            self._open, self._opened = self._open + 1, self._opened + 1

    def close(self) -> None:
        with self._lock:
            self._open -= 1

    def count_blocks(self) -> tuple[int, int]:
        with self._lock:
            return self._open, self._opened


_blocks = _Blocks()


@cache
def _label(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def _words(number: int) -> list[int]:
    """Return the 32-bit words of a number, lowest first, at least one."""
    if number < 0:
        raise ValueError(f"seeds derive from numbers from 0, not {number}")
    words = [number & _WORD]
    while number := number >> 32:
        words.append(number & _WORD)
    return words


def _pool(words: Sequence[Word]) -> tuple[Word, ...]:
    """Return the pool of NumPy's SeedSequence (O'Neill's seed_seq) for at least one word.

    SeedSequence itself takes about fifty microseconds per seed, a large part of a small client's step.
    """
    blank = words[0] ^ words[0]
    filled = [*words, blank, blank, blank][:_POOL]
    pool = [_hash(word, place, _IN) for place, word in enumerate(filled)]
    done = _POOL
    for source in range(_POOL):
        for place in range(_POOL):
            if source != place:
                pool[place] = _mix(pool[place], _hash(pool[source], done, _IN))
                done += 1
    mixed = tuple(pool)
    for index in range(_POOL, len(words)):
        mixed = _absorb(mixed, index, words[index])
    return mixed


@lru_cache(maxsize=256)
def _pool_of(numbers: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return `_pool` of numbers, and their number of words.

    Cached, because many paths differ only in the last number.
    """
    words = [word for number in numbers for word in _words(number)]
    return _pool(words), len(words)


def _absorb(pool: tuple[Word, ...], index: int, word: Word) -> tuple[Word, ...]:
    """Return the pool after a further word, with index `index` from 0."""
    done = _FILLED + (index - _POOL) * _POOL
    return tuple([_mix(old, _hash(word, done + place, _IN)) for place, old in enumerate(pool)])


def _seed(pool: tuple[Word, ...]) -> Word:
    """Return the first 63 bits generated by the pool."""
    low, high = _hash(pool[0], 0, _OUT), _hash(pool[1], 1, _OUT)
    return (high << 32 | low) >> 1


def _hash(word: Word, done: int, constants: tuple[int, int]) -> Word:
    """Return the hash of a word, `done` hashes after the first."""
    before, after = _constants(done, constants)
    word = (word ^ before) * after & _WORD
    return word ^ (word >> _HALF)


def _mix(word: Word, hashed: Word) -> Word:
    word = (0xCA01F9DD * word - 0x4973F715 * hashed) & _WORD
    return word ^ (word >> _HALF)


@cache
def _constants(done: int, constants: tuple[int, int]) -> tuple[int, int]:
    """Return the two constants of hash number `done`: its own, and that of the next hash."""
    start, factor = constants
    before = start * pow(factor, done, 1 << 32) & _WORD
    return before, before * factor & _WORD
