"""Word-level vocabulary of questions about grids of digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, final, get_args

Kind = Literal["position", "presence", "counting", "where", "list"]

KINDS: tuple[Kind, ...] = get_args(Kind)
QUESTION_LENGTH = 4  # words of every question, with padding
MOST_COUNTED = 6
DIGITS = 10
CELL_WORDS = ("none", *(f"d{digit}" for digit in range(DIGITS)))
"""Words for the content of a cell: empty, or a digit."""

_FIRST: dict[Kind, tuple[str, ...]] = {
    "position": ("what", "is"),
    "presence": ("is", "there"),
    "counting": ("how", "many"),
    "where": ("where", "is"),
    "list": ("list",),
}


def cell_name(row: int, column: int) -> str:
    """Return the name of the attribute that holds the content of a cell."""
    return f"r{row} c{column}"


@final
class GridWords:
    """Token numbers of words, for grids with `cells` rows and columns.

    Attributes:
        words: words by their number.
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
        """Mapping from words to numbers."""
        return {word: number for number, word in enumerate(self.words)}

    def of(self, word: str) -> int:
        """Return the number of a word."""
        return self.numbers[word]

    def first_words(self, kind: Kind) -> list[int]:
        """Return the first words of all questions of a kind."""
        return [self.of(word) for word in _FIRST[kind]]

    def kind(self, question: Sequence[int]) -> Kind:
        """Return the kind of a question."""
        return next(kind for kind in KINDS if question[0] == self.first_words(kind)[0])

    @property
    def vocabulary(self) -> int:
        """Number of words."""
        return len(self.words)

    @property
    def padding(self) -> int:
        """Padding token of short questions and answers."""
        return self.of("<pad>")

    @property
    def begin(self) -> None:
        """None: models add the begin token themselves."""

    @property
    def end(self) -> int:
        """End token of an answer."""
        return self.of("<eos>")

    @property
    def ends(self) -> frozenset[int]:
        """The set of the end token."""
        return frozenset({self.end})

    def encode(self, text: str) -> list[int]:
        """Return the tokens of words separated by blanks."""
        return [self.of(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return words separated by blanks, without padding and end tokens."""
        silent = {self.of(word) for word in ("<pad>", "<eos>")}
        return " ".join(self.words[token] for token in tokens if token >= 0 and token not in silent)
