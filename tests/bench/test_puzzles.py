"""Latin squares and Sudokus: counted, judged as by trying every filling, and drawn with one solution."""

from itertools import product

import pytest
import torch

from fedsim.bench.puzzles import PUZZLES, LatinSquare, Sudoku, draw_sudoku, grids, is_grid, is_square, squares


def test_there_are_as_many_as_is_known() -> None:
    assert [len(squares(size)) for size in (1, 2, 3, 4)] == [1, 2, 12, 576]
    assert len(grids()) == 288
    assert len(set(squares(4))) == 576


def test_squares_are_the_fillings_that_the_judge_accepts() -> None:
    assert {own for own in product(range(3), repeat=9) if is_square(own, 3)} == set(squares(3))
    assert not is_square((0, 1, 2, 1, 2, 0), 3)


def test_an_edit_of_one_cell_is_no_answer() -> None:
    square, grid = LatinSquare("latin-square-4", 4), draw_sudoku("sudoku", torch.Generator().manual_seed(0))
    for puzzle in (square, grid):
        own = next(iter(puzzle.answers()))
        assert puzzle.is_answer(own)
        for place, symbol in product(range(16), range(5)):
            edit = (*own[:place], symbol, *own[place + 1 :])
            assert puzzle.is_answer(edit) == (edit == own)


def test_boxes_matter_and_a_square_without_them_is_no_grid() -> None:
    assert is_grid((0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0))
    assert is_square((0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 1, 2), 4)
    assert not is_grid((0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 1, 2))


def solutions(cells: list[int | None]) -> int:
    """How many fillings of the open cells are grids, by trying all of them."""
    open_ones = [place for place, own in enumerate(cells) if own is None]
    count = 0
    for filling in product(range(4), repeat=len(open_ones)):
        own = [cell if cell is not None else 0 for cell in cells]
        for place, cell in zip(open_ones, filling, strict=True):
            own[place] = cell
        count += is_grid(own)
    return count


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_sudoku_has_twelve_givens_and_one_solution(seed: int) -> None:
    puzzle = draw_sudoku("sudoku", torch.Generator().manual_seed(seed))
    assert puzzle == PUZZLES["sudoku"]("sudoku", torch.Generator().manual_seed(seed))
    assert isinstance(puzzle, Sudoku)
    assert sum(tensor is not None for tensor in puzzle.clues) == 12
    assert solutions(list(puzzle.clues)) == 1
    (answer,) = puzzle.answers()
    assert all(wanted in (None, own) for wanted, own in zip(puzzle.clues, answer, strict=True))
