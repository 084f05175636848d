"""Puzzles of ParallelBench: Latin squares, with many solutions, and a small Sudoku, with one solution.

Kang et al. 2025, arXiv 2510.04767. A cell is one token, in row order. An exact model that writes a Latin square cell by
cell never fails; cells of the same step depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import permutations

import torch

Cells = tuple[int, ...]
_SIDE, _BOX, _GIVEN = 4, 2, 12


@lru_cache(maxsize=8)
def squares(size: int) -> tuple[Cells, ...]:
    """Return all Latin squares of a size, in row order."""
    rows = list(permutations(range(size)))
    partial_squares: list[tuple[Cells, ...]] = [()]
    for _ in range(size):
        partial_squares = [
            (*upper, row) for upper in partial_squares for row in rows if not any(map(_clashes, upper, [row] * size))
        ]
    return tuple(sum(square, ()) for square in partial_squares)


def is_square(cells: Sequence[int], size: int) -> bool:
    """Return whether each row and each column contains each symbol once."""
    symbols = set(range(size))
    if len(cells) != size * size:
        return False
    lines = [cells[size * row : size * (row + 1)] for row in range(size)] + [
        cells[column::size] for column in range(size)
    ]
    return all(set(line) == symbols for line in lines)


def is_grid(cells: Sequence[int]) -> bool:
    """Return whether cells are a Sudoku of four rows: a Latin square whose boxes contain each symbol once."""
    starts = [_SIDE * row + column for row in range(0, _SIDE, _BOX) for column in range(0, _SIDE, _BOX)]
    boxes = [{*cells[start : start + _BOX], *cells[start + _SIDE : start + _SIDE + _BOX]} for start in starts]
    return is_square(cells, _SIDE) and all(len(box) == _SIDE for box in boxes)


@lru_cache(maxsize=1)
def grids() -> tuple[Cells, ...]:
    """Return all Sudokus of four rows."""
    return tuple(square for square in squares(_SIDE) if is_grid(square))


@dataclass(frozen=True)
class LatinSquare:
    """Any Latin square of the given size."""

    operation: str
    size: int

    def answers(self) -> Iterator[Cells]:
        """Yield all squares."""
        yield from squares(self.size)

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether cells are such a square."""
        return is_square(given, self.size)


@dataclass(frozen=True)
class Sudoku:
    """A Sudoku with a unique solution.

    Attributes:
        operation: its name.
        clues: each cell, None if unknown.
    """

    operation: str
    clues: tuple[int | None, ...]

    def answers(self) -> Iterator[Cells]:
        """Yield all grids with the given cells: exactly one."""
        for grid in grids():
            if all(wanted in (None, cell) for wanted, cell in zip(self.clues, grid, strict=True)):
                yield grid

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether cells are the solution."""
        return tuple(given) in set(self.answers())


def draw_sudoku(operation: str, generator: torch.Generator) -> Sudoku:
    """Sample a grid and twelve given cells, such that the solution is unique."""
    known = grids()
    while True:
        grid = known[int(torch.randint(len(known), (), generator=generator))]
        shown: set[int] = set(torch.randperm(_SIDE**2, generator=generator)[:_GIVEN].tolist())
        sudoku = Sudoku(operation, tuple(cell if place in shown else None for place, cell in enumerate(grid)))
        if len(list(sudoku.answers())) == 1:
            return sudoku


def _square(size: int, operation: str, _generator: torch.Generator) -> LatinSquare:
    return LatinSquare(operation, size)


def _clashes(first: Cells, second: Cells) -> bool:
    return any(cell == upper for cell, upper in zip(first, second, strict=True))


PUZZLES: Mapping[str, Callable[[str, torch.Generator], LatinSquare | Sudoku]] = {
    "latin-square-3": partial(_square, 3),
    "latin-square-4": partial(_square, _SIDE),
    "sudoku": draw_sudoku,
}
