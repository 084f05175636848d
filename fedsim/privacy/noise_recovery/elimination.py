"""Linear systems over GF(2) with rows packed into 64-bit words: elimination by the method of the Four Russians.

Rows are added in batches. Pivots are searched byte by byte (8 columns), so that a table of at most 256 combinations
clears a byte of all remaining rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_BYTE, _WORD = 8, 64
_CHUNK = 256  # rows that are cleared at once: table and rows stay in the processor's cache


@dataclass
class _Group:
    """Pivots within a byte: row i has a 1 at bit ``bits[i]`` and a 0 at the other bits in `bits`."""

    bits: list[int] = field(default_factory=list[int])
    rows: list[Words] = field(default_factory=list[Words])


class LinearSystem:
    """A linear system over GF(2) in echelon form.

    Attributes:
        columns: number of unknowns, a multiple of 64.
        rank: number of pivots so far.
        equations: number of rows that were added.
        inconsistent: number of rows that contradict the rows before them.
    """

    def __init__(self, columns: int) -> None:
        if columns % _WORD:
            raise ValueError(f"columns is {columns}, expected a multiple of {_WORD}")
        self.columns = columns
        self.rank = self.equations = self.inconsistent = 0
        self._groups = [_Group() for _ in range(columns // _BYTE)]

    def add(self, rows: Words, constants: NDArray[np.uint8]) -> None:
        """Add equations ``rows @ unknowns = constants``.

        Args:
            rows: (n, columns / 64), unknown c at bit c % 64 of word c // 64.
            constants: (n,), 0 or 1.
        """
        active = np.concatenate([rows, constants.astype(np.uint64)[:, None]], 1)
        self.equations += len(active)
        for place, group in enumerate(self._groups):
            if not len(active):
                return
            if group.rows:
                _clear(active, place, group)
            active = self._find_pivots(active, place, group)
        self.inconsistent += int(np.count_nonzero(active[:, -1]))

    def solve(self) -> Words:
        """Return a solution, (columns / 64,); unknowns without a pivot are 0."""
        solution = np.zeros(self.columns // _WORD, np.uint64)
        for place in reversed(range(len(self._groups))):
            group = self._groups[place]
            for bit, row in zip(group.bits, group.rows, strict=True):
                parity = int(np.bitwise_count(row[:-1] & solution).sum()) + int(row[-1])
                if parity & 1:
                    column = place * _BYTE + bit
                    solution[column // _WORD] |= np.uint64(1 << column % _WORD)
        return solution

    def _find_pivots(self, active: Words, place: int, group: _Group) -> Words:
        """Move rows with independent values of a byte into a group, and clear the byte of all other rows."""
        values = active.view(np.uint8)[:, place].copy()
        fresh = _Group()
        taken: list[int] = []
        while len(group.bits) + len(fresh.bits) < _BYTE and (column := int(values.argmax())) >= 0 and values[column]:
            bit = int(values[column]).bit_length() - 1
            row = active[column].copy()
            for row_bits, pivot in zip(fresh.bits, fresh.rows, strict=True):
                if row.view(np.uint8)[place] >> row_bits & 1:
                    row ^= pivot
            values = np.where(values >> np.uint8(bit) & 1, values ^ values[column], values)
            _insert(fresh, bit, row, place)
            taken.append(column)
        if not taken:
            return active
        for bit, row in zip(fresh.bits, fresh.rows, strict=True):
            _insert(group, bit, row, place)
        self.rank += len(taken)
        active = _remaining_rows(active, taken)
        _clear(active, place, fresh)
        return active


def _insert(group: _Group, bit: int, row: Words, place: int) -> None:
    """Add a pivot to a group, and clear its bit from the group's other pivots."""
    for pivot in group.rows:
        if pivot.view(np.uint8)[place] >> bit & 1:
            np.bitwise_xor(pivot, row, out=pivot)
    group.bits.append(bit)
    group.rows.append(row)


def _remaining_rows(active: Words, taken: list[int]) -> Words:
    """Return all rows except the pivot rows, moving the first rows into the freed places."""
    count = len(taken)
    places = set(taken)
    for position, first in zip(
        [t for t in taken if t >= count], [f for f in range(count) if f not in places], strict=True
    ):
        active[position] = active[first]
    return active[count:]


def _clear(active: Words, place: int, group: _Group) -> None:
    """Clear the pivot bits of a group from all rows, in place."""
    first = place // _BYTE
    table = np.zeros((1 << len(group.rows), active.shape[1] - first), np.uint64)
    choice = np.zeros(256, np.intp)
    byte_values = np.arange(256)
    for number, (bit, row) in enumerate(zip(group.bits, group.rows, strict=True)):
        table[1 << number : 2 << number] = table[: 1 << number] ^ row[first:]
        choice |= (byte_values >> bit & 1) << number
    chosen = choice[active.view(np.uint8)[:, place]]
    for start in range(0, len(active), _CHUNK):
        part = active[start : start + _CHUNK, first:]
        part ^= table.take(chosen[start : start + _CHUNK], axis=0)
