"""The words of questions about grids of digits, one a token, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, final, get_args

Kind = Literal["position", "presence", "counting", "where", "list"]

KINDS: tuple[Kind, ...] = get_args(Kind)
QUESTION_LENGTH = 4  # words of every question, with what fills it up
MOST_COUNTED = 6
DIGITS = 10

_FIRST: dict[Kind, tuple[str, ...]] = {
    "position": ("what", "is"),
    "presence": ("is", "there"),
    "counting": ("how", "many"),
    "where": ("where", "is"),
    "list": ("list",),
}


@final
class GridWords:
    """Numbers of words, for grids of so many cells a side.

    Attributes:
        words: by their number.
        cells: rows and columns of a grid.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.words = (
            "<pad>", "<bos>", "<q>", "<a>", "<eos>", "what", "is", "there", "how", "many", "where", "list",
            "none", "yes", "no",
            *(f"d{digit}" for digit in range(DIGITS)),
            *(f"n{count}" for count in range(MOST_COUNTED + 1)),
            *(f"r{row}" for row in range(cells)),
            *(f"c{column}" for column in range(cells)),
        )  # fmt: skip

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def of(self, word: str) -> int:
        """Return the number of a word."""
        return self.numbers[word]

    def beginning(self, kind: Kind) -> list[int]:
        """Return the words that all questions of a kind begin with."""
        return [self.of(word) for word in _FIRST[kind]]

    def kind(self, question: Sequence[int]) -> Kind:
        """Return the kind of a question."""
        return next(kind for kind in KINDS if question[0] == self.beginning(kind)[0])

    @property
    def vocabulary(self) -> int:
        """Number of words."""
        return len(self.words)

    @property
    def padding(self) -> int:
        """What fills up a short question or answer."""
        return self.of("<pad>")

    @property
    def begin(self) -> None:
        """Nothing: models put the beginning there themselves."""

    @property
    def end(self) -> int:
        """What ends an answer."""
        return self.of("<eos>")

    @property
    def ends(self) -> frozenset[int]:
        """The same alone."""
        return frozenset({self.end})

    def encode(self, text: str) -> list[int]:
        """Return the numbers of words with blanks between them."""
        return [self.of(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return words with blanks, without what fills up and ends."""
        silent = {self.of(word) for word in ("<pad>", "<eos>")}
        return " ".join(self.words[token] for token in tokens if token >= 0 and token not in silent)
