"""Grids, pictures and questions that are drawn many at a time."""

import pytest
import torch

from fedsim.core.nets.losses import IGNORED
from fedsim.data._grid_questions import (
    EMPTY,
    TILE,
    Stock,
    answer_places,
    ask,
    draw_digits,
    draw_kinds,
    paint,
)
from fedsim.data._grid_words import KINDS, GridWords

WORDS = GridWords(4)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stock() -> Stock:
    """Three pictures of each digit, whose grey tells which."""
    labels = torch.arange(30) % 10
    pixels = (0.2 + 0.02 * labels + 0.2 * (torch.arange(30) // 10))[:, None, None, None].expand(-1, 1, 28, 28)
    return Stock.of(pixels.contiguous(), labels)


def right_answer(digits: list[int], words: GridWords, question: list[int]) -> list[int]:
    """Return the answer tokens of a question about a single grid, recomputed from the question, with the end token."""
    kind, named = words.kind(question), [words.words[token] for token in question]
    cells = words.cells
    if kind == "list":
        said = [f"d{filled}" for filled in digits if filled != EMPTY]
    elif kind == "position":
        cell_digit = digits[int(named[2][1:]) * cells + int(named[3][1:])]
        said = ["none" if cell_digit == EMPTY else f"d{cell_digit}"]
    else:
        digit = int(named[2][1:])
        place = digits.index(digit) if digit in digits else 0
        said = {
            "presence": ["yes" if digit in digits else "no"],
            "counting": [f"n{digits.count(digit)}"],
            "where": [f"r{place // cells}", f"c{place % cells}"],
        }[kind]
    return [words.of(word) for word in [*said, "<eos>"]]


def test_a_tenth_of_a_thousand_answers_is_never_wrong() -> None:
    digits = draw_digits(1000, 4, (3, 6), 0.5, source())
    for number, kind in enumerate(KINDS):
        asked = ask(digits, WORDS, torch.full((1000,), number), answer_places({kind: 1.0}), source(1))
        if kind != "where":
            assert bool((asked.kinds == number).all())
        for grid, question, answer in zip(
            digits.tolist(), asked.questions.tolist(), asked.answers.tolist(), strict=True
        ):
            assert [own for own in answer if own != IGNORED] == right_answer(grid, WORDS, question)


def test_presence_is_balanced_and_positions_ask_mostly_for_digits() -> None:
    digits = draw_digits(2000, 4, (3, 6), 0.0, source())
    presence = ask(digits, WORDS, torch.full((2000,), KINDS.index("presence")), 2, source(1))
    assert int((presence.answers[:, 0] == WORDS.of("yes")).sum()) == 1000
    position = ask(digits, WORDS, torch.full((2000,), KINDS.index("position")), 2, source(1))
    share = float((position.answers[:, 0] != WORDS.of("none")).double().mean())
    assert share == pytest.approx(0.85, abs=0.03)  # four standard errors of 2,000


def test_a_place_that_does_not_exist_is_replaced_by_another_question() -> None:
    digits = torch.full((5, 16), EMPTY)
    digits[:, :4] = 3
    asked = ask(digits, WORDS, torch.full((5,), KINDS.index("where")), 3, source())
    assert asked.kinds.tolist() == [KINDS.index("position")] * 5


def test_grids_hold_as_many_digits_as_are_asked_for() -> None:
    counts = (draw_digits(500, 4, (3, 6), 0.0, source()) != EMPTY).sum(1)
    assert counts.unique().tolist() == [3, 4, 5, 6]
    palette = draw_digits(500, 4, (6, 6), 1.0, source())
    classes = torch.tensor([len(set(row.tolist()) - {EMPTY}) for row in palette])
    assert set(classes.tolist()) == set(range(1, 7))


def test_kinds_are_shared_out_by_the_mix() -> None:
    kinds = draw_kinds(200, {"position": 5, "presence": 3, "counting": 2}, source())
    assert kinds.bincount(minlength=5).tolist() == [100, 60, 40, 0, 0]


def test_a_picture_shows_each_digit_in_its_cell() -> None:
    digits = torch.full((2, 4), EMPTY)
    digits[0, 1], digits[1, 2] = 7, 4
    pictures = paint(digits, 2, stock(), source())
    assert pictures.shape == (2, 1, 28, 28)
    assert float(pictures[0, 0, :TILE, :TILE].max()) <= 0.1
    own = pictures[0, 0, :TILE, TILE:]
    assert min(abs(float(own.min()) - (0.34 + 0.2 * step)) for step in range(3)) < 1e-6
    assert float(pictures[1, 0, TILE:, :TILE].min()) > 0.2
    assert float(pictures[1, 0, :, TILE:].max()) <= 0.1


def test_a_digit_moves_by_no_more_than_asked() -> None:
    tile = torch.zeros(1, 1, 28, 28)
    tile[0, 0, 14:16, 14:16] = 1.0
    own = Stock.of(tile.expand(10, -1, -1, -1).contiguous(), torch.arange(10))
    moved = paint(torch.full((200, 1), 3), 1, own, source(), shift=1)
    places = {divmod(int(place), TILE) for place in moved.flatten(1).argmax(1)}
    assert places == {(row, column) for row in (6, 7, 8) for column in (6, 7, 8)}


def test_small_pictures_are_enlarged() -> None:
    assert Stock.of(torch.rand(10, 1, 8, 8), torch.arange(10)).tiles.shape == (10, TILE, TILE)
