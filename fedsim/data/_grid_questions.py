"""Sample grids of digits, their images, and questions with answers, vectorised over examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.nets.losses import IGNORED
from fedsim.data._grid_words import DIGITS, KINDS, MOST_COUNTED, QUESTION_LENGTH, GridWords, Kind

EMPTY = -1
TILE = 14
_NOISE = 0.1
_OCCUPIED = 0.85  # share of position questions about a cell with a digit
_PLACES: Mapping[Kind, int] = {
    "position": 2,
    "presence": 2,
    "counting": 2,
    "where": 3,
    "list": MOST_COUNTED + 1,
}  # tokens of an answer, with its end token


@dataclass(frozen=True)
class Stock:
    """Digit images: tiles (N, TILE, TILE) in [0, 1], sorted by class, and the number of tiles of each class (10,)."""

    tiles: Tensor
    counts: Tensor

    @classmethod
    def of(cls, pixels: Tensor, labels: Tensor) -> Stock:
        """Return a stock of images (N, 1, H, W) in [0, 1], resized to tiles."""
        shrinks = pixels.shape[-1] == 2 * TILE
        tiles = F.avg_pool2d(pixels, 2) if shrinks else F.interpolate(pixels, (TILE, TILE), mode="bilinear")
        return cls(tiles[labels.argsort(stable=True), 0], labels.bincount(minlength=DIGITS))

    def draw_tiles(self, digits: Tensor, generator: torch.Generator) -> Tensor:
        """Sample a tile for each digit (n,) from its class."""
        first = self.counts.cumsum(0) - self.counts
        offset = (torch.rand(len(digits), generator=generator) * self.counts[digits]).long()
        return self.tiles[first[digits] + offset.minimum(self.counts[digits] - 1)]


@dataclass(frozen=True)
class GridQuestions:
    """Questions about grids.

    Attributes:
        questions: words (N, QUESTION_LENGTH).
        answers: words and the end token (N, A), padded with IGNORED.
        kinds: index of each question's kind in KINDS (N,).
    """

    questions: Tensor
    answers: Tensor
    kinds: Tensor


def draw_digits(
    count: int, cells: int, occupied: tuple[int, int], palette: float, generator: torch.Generator
) -> Tensor:
    """Sample grids (count, cells * cells) of digits and EMPTY cells, in raster order.

    Args:
        count: number of grids.
        cells: number of rows and columns.
        occupied: fewest and most cells with a digit.
        palette: share of the grids with digits from 1 to 6 classes, instead of all ten.
        generator: all randomness.
    """
    places = cells * cells
    few_cells, many_cells = occupied
    wanted = torch.randint(few_cells, many_cells + 1, (count, 1), generator=generator)
    rank = torch.rand(count, places, generator=generator).argsort(1).argsort(1)
    classes = torch.rand(count, DIGITS, generator=generator).argsort(1)
    size = torch.randint(1, 7, (count, 1), generator=generator)
    size = size.where(torch.rand(count, 1, generator=generator) < palette, DIGITS)
    number = (torch.rand(count, places, generator=generator) * size).long().minimum(size - 1)
    return classes.gather(1, number).where(rank < wanted, EMPTY)


def paint(digits: Tensor, cells: int, stock: Stock, generator: torch.Generator, shift: int = 0) -> Tensor:
    """Return images (N, 1, S, S) in [0, 1] of grids; each digit is shifted randomly by up to `shift` pixels."""
    count = len(digits)
    tiles = torch.zeros(count, cells * cells, TILE, TILE)
    filled = digits != EMPTY
    digit_tiles = stock.draw_tiles(digits[filled], generator)
    if shift:
        digit_tiles = _shift_tiles(digit_tiles, shift, generator)
    tiles[filled] = digit_tiles
    side = cells * TILE
    pictures = tiles.view(count, cells, cells, TILE, TILE).transpose(2, 3).reshape(count, 1, side, side)
    return pictures.maximum(_NOISE * torch.rand(pictures.shape, generator=generator))


def ask(digits: Tensor, words: GridWords, kinds: Tensor, places: int, generator: torch.Generator) -> GridQuestions:
    """Sample a question for each grid.

    Args:
        digits: grids (N, cells * cells).
        words: vocabulary of questions.
        kinds: index in KINDS of each question (N,). If no digit occurs exactly once, a `where` question is replaced by
            a
            `position` question.
        places: tokens of an answer, with its end token.
        generator: all randomness.
    """
    occurs_once = _counts(digits) == 1
    kinds = kinds.where((kinds != KINDS.index("where")) | occurs_once.any(1), KINDS.index("position"))
    questions = torch.full((len(digits), QUESTION_LENGTH), words.of("<pad>"))
    answers = torch.full((len(digits), places), IGNORED)
    for number, kind in enumerate(KINDS):
        rows = (kinds == number).nonzero()[:, 0]
        if len(rows):
            question, said = _ASK[kind](digits[rows], words, generator)
            first = torch.tensor(words.first_words(kind)).expand(len(rows), -1)
            tokens = torch.cat((first, question), 1)
            questions[rows, : tokens.shape[1]] = tokens
            answers[rows, : said.shape[1]] = said
    return GridQuestions(questions, answers, kinds)


def draw_kinds(count: int, mix: Mapping[Kind, float], generator: torch.Generator) -> Tensor:
    """Return kinds (count,) of questions in random order, with counts as near to the mix as whole numbers allow."""
    shares = torch.tensor([mix.get(kind, 0.0) for kind in KINDS], dtype=torch.double)
    edges = (shares.cumsum(0) / shares.sum() * count).round().long()
    counts = edges.diff(prepend=torch.zeros(1, dtype=torch.long))
    return torch.arange(len(KINDS)).repeat_interleave(counts)[torch.randperm(count, generator=generator)]


def answer_places(mix: Mapping[Kind, float]) -> int:
    """Return the tokens of the longest answer of a mix, with its end token."""
    return max(_PLACES[kind] for kind, share in mix.items() if share > 0)


def _shift_tiles(tiles: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    count = len(tiles)
    row_shift, column_shift = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    padded = F.pad(tiles, (shift, shift, shift, shift))
    rows, columns = row_shift + torch.arange(TILE), column_shift + torch.arange(TILE)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _counts(digits: Tensor) -> Tensor:
    """Return the number of occurrences of each class in each grid, (N, 10)."""
    return (digits[:, :, None] == torch.arange(DIGITS)).sum(1)


def _one_of(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Sample an allowed entry of each row, (N, 1)."""
    return allowed.double().multinomial(1, generator=generator)


def _append_end(words: GridWords, said: Tensor) -> Tensor:
    return torch.cat((said, torch.full((len(said), 1), words.of("<eos>"))), 1)


def _position(digits: Tensor, words: GridWords, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    filled = digits != EMPTY
    wants_digit = torch.rand(len(digits), 1, generator=generator) < _OCCUPIED
    wants_digit = (wants_digit & filled.any(1, keepdim=True)) | filled.all(1, keepdim=True)
    place = _one_of(filled.where(wants_digit, ~filled), generator)
    cell_digits = digits.gather(1, place)
    said = (words.of("d0") + cell_digits).where(cell_digits != EMPTY, words.of("none"))
    place_words = (words.of("r0") + place // words.cells, words.of("c0") + place % words.cells)
    return torch.cat(place_words, 1), _append_end(words, said)


def _presence(digits: Tensor, words: GridWords, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    present = _counts(digits) > 0
    is_yes = torch.arange(len(digits))[:, None] % 2 == 0
    is_yes = is_yes[torch.randperm(len(digits), generator=generator)]
    is_yes = (is_yes & present.any(1, keepdim=True)) | present.all(1, keepdim=True)
    digit = _one_of(present.where(is_yes, ~present), generator)
    return words.of("d0") + digit, _append_end(words, torch.where(is_yes, words.of("yes"), words.of("no")))


def _counting(digits: Tensor, words: GridWords, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    counts = _counts(digits)
    digit = _one_of(counts > 0, generator)
    return words.of("d0") + digit, _append_end(words, words.of("n0") + counts.gather(1, digit).clamp_max(MOST_COUNTED))


def _position_question(digits: Tensor, words: GridWords, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    digit = _one_of(_counts(digits) == 1, generator)
    place = (digits == digit).long().argmax(1, keepdim=True)
    said = torch.cat((words.of("r0") + place // words.cells, words.of("c0") + place % words.cells), 1)
    return words.of("d0") + digit, _append_end(words, said)


def _list(digits: Tensor, words: GridWords, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    said = torch.full((len(digits), _PLACES["list"]), IGNORED)
    filled = digits != EMPTY
    rows, places = filled.nonzero(as_tuple=True)
    order = filled.long().cumsum(1) - 1
    said[rows, order[rows, places]] = words.of("d0") + digits[rows, places]
    said[torch.arange(len(digits)), filled.sum(1)] = words.of("<eos>")
    return torch.empty(len(digits), 0, dtype=torch.long), said


_ASK = {"position": _position, "presence": _presence, "counting": _counting, "where": _position_question, "list": _list}
