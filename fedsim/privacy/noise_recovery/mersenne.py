"""MT19937 in numbers and in symbols: each bit of an output as a sum over GF(2) of bits of the state.

The state is words x[0] to x[623]; output k is the tempered word x[624 + k]. Of x[0] only the highest bit matters, which
leaves 19,937 unknown bits. Source: Matsumoto, Nishimura 1998, ACM TOMACS 8(1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS, BITS = 624, 32
COLUMNS = WORDS * BITS
RANK = 19937  # unknown bits that outputs depend on

State = NDArray[np.uint32]
"""Words x[0] to x[623]."""

_MIDDLE = 397
_TWIST = np.uint32(0x9908B0DF)
_FILL = np.uint32(1812433253)
_UPPER, _LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
# Parts of a block in which new words depend only on words of the block that are computed already.
_PARTS = ((0, WORDS - _MIDDLE), (WORDS - _MIDDLE, 2 * (WORDS - _MIDDLE)), (2 * (WORDS - _MIDDLE), WORDS - 1))


def temper(words: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the outputs of untempered words."""
    y = words ^ (words >> 11)
    y ^= (y << 7) & np.uint32(0x9D2C5680)
    y ^= (y << 15) & np.uint32(0xEFC60000)
    return (y ^ (y >> 18)).astype(np.uint32)


def advance_state(state: State) -> State:
    """Return the next 624 words, x[624] to x[1247]."""
    words = state.copy()
    for start, stop in _PARTS:
        words[start:stop] = _recur(words, np.arange(start, stop))
    words[-1:] = _recur(words, np.array([WORDS - 1]))
    return words


def outputs(state: State, count: int) -> NDArray[np.uint32]:
    """Return the first outputs after a state, (count,)."""
    blocks: list[State] = []
    for _ in range(-(-count // WORDS)):
        state = advance_state(state)
        blocks.append(state)
    return temper(np.concatenate(blocks)[:count]) if blocks else np.zeros(0, np.uint32)


def first_outputs(seeds: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """Return the first outputs of many seeds, (count, n), where `count` is at most 227.

    The seed fills the state as in torch's ``manual_seed`` and NumPy's ``RandomState``.
    """
    words = seeds.copy()
    kept: list[State] = [words]
    for place in range(1, _MIDDLE + count):
        words = _FILL * (words ^ (words >> 30)) + np.uint32(place)
        kept.append(words.astype(np.uint32, copy=False) if place <= count or place >= _MIDDLE else kept[0])
    joined = [(kept[k] & _UPPER) | (kept[k + 1] & _LOWER) for k in range(count)]
    return np.array([temper(kept[k + _MIDDLE] ^ (y >> 1) ^ ((y & 1) * _TWIST)) for k, y in enumerate(joined)])


def rewind(state: State, count: int) -> State:
    """Return the state `count` outputs earlier. The lower 31 bits of its first word are 0."""
    words = [int(word) for word in state]
    words.reverse()  # x[623] first, so that earlier words are appended
    for _ in range(count + 1):
        # x[k] = x[k - 227] ^ twist(upper bit of x[k - 624], lower bits of x[k - 623]), solved for the last two.
        twisted = words[-WORDS] ^ words[-_MIDDLE]
        joined = ((twisted ^ int(_TWIST)) << 1 | 1) if twisted >> 31 else twisted << 1
        words[-1] = (words[-1] & 0x80000000) | (joined & 0x7FFFFFFF)
        words.append(joined & 0x80000000)
    return np.array(words[-2 : -2 - WORDS : -1], np.uint32)


def rows(places: Sequence[NDArray[np.intp]]) -> NDArray[np.uint64]:
    """Return bits of outputs as rows over the bits of the state.

    Args:
        places: for each bit of an output, from the lowest, the ascending numbers of the wanted outputs.

    Returns:
        (n, 312): rows of bit 0, then of bit 1, and so on. Bit b of word x[k] is unknown 32 k + b.
    """
    result = np.empty((sum(map(len, places)), COLUMNS // 64), np.uint64)
    starts = np.cumsum([0, *map(len, places)])
    last = max((int(place[-1]) for place in places if len(place)), default=-1)
    symbols = _unit_symbols()
    for block in range(last // WORDS + 1):
        _advance(symbols)
        for bit, place in enumerate(places):
            low, high = np.searchsorted(place, (block * WORDS, (block + 1) * WORDS))
            if low == high:
                continue
            words = place[low:high] - block * WORDS
            sums = result[starts[bit] + low : starts[bit] + high]
            first, *later_sources = _SOURCES[bit]
            sums[:] = symbols[words, first]
            for source in later_sources:
                sums ^= symbols[words, source]
    return result


def _recur(words: State, indices: NDArray[np.intp]) -> State:
    joined = (words[indices] & _UPPER) | (words[(indices + 1) % WORDS] & _LOWER)
    return (words[(indices + _MIDDLE) % WORDS] ^ (joined >> 1) ^ ((joined & 1) * _TWIST)).astype(np.uint32)


def _unit_symbols() -> NDArray[np.uint64]:
    """Return the symbolic state, (624, 32, 312): word, bit, packed unknowns."""
    symbols = np.zeros((WORDS * BITS, COLUMNS // 64), np.uint64)
    columns = np.arange(COLUMNS)
    symbols[columns, columns // 64] = np.left_shift(np.uint64(1), (columns % 64).astype(np.uint64))
    return symbols.reshape(WORDS, BITS, -1)


def _advance(symbols: NDArray[np.uint64]) -> None:
    """Replace 624 symbolic words by the next 624, in place."""
    for index in range(WORDS):  # a symbolic word has 80 kB: word by word, they stay in the processor's cache
        word, after, middle = symbols[index], symbols[(index + 1) % WORDS], symbols[(index + _MIDDLE) % WORDS]
        upper = word[BITS - 1].copy()
        np.bitwise_xor(middle[: BITS - 2], after[1 : BITS - 1], out=word[: BITS - 2])
        np.bitwise_xor(middle[BITS - 2], upper, out=word[BITS - 2])
        word[BITS - 1] = middle[BITS - 1]
        word[_TWISTED] ^= after[0]


_TWISTED = np.array([bit for bit in range(BITS) if int(_TWIST) >> bit & 1])
_UNITS = temper(np.left_shift(np.uint32(1), np.arange(BITS, dtype=np.uint32)))
_SOURCES = [[source for source in range(BITS) if int(_UNITS[source]) >> bit & 1] for bit in range(BITS)]
"""For each bit of an output, the bits of the untempered word that are summed to it."""
