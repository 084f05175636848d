"""Operations on short lists of letters, with their valid answers.

Operations named `random` have many equally likely answers, so that the tokens of an answer depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from string import ascii_uppercase
from typing import NamedTuple, final

import torch

LETTERS = len(ascii_uppercase)
OPERATIONS = (
    "copy", "reverse", "sort", "shuffle", "insert-index", "insert-random", "remove-index", "remove-random",
    "replace-index", "replace-random",
)  # fmt: skip
_SLOTS = 8  # tokens of a list in a prompt, and of an answer
_INDICES = 10
_PROMPT = 4 + _SLOTS + 1  # begin, operation, index, new letter, the list, separator

Answer = tuple[int, ...]


class Sample(NamedTuple):
    """An operation on a list of letters: 0 is A.

    Attributes:
        operation: an element of `OPERATIONS`.
        items: distinct letters.
        place: position, counted from 0, for operations on an index; else None.
        word: a letter that is not in the list, for insertions and replacements; else None.
    """

    operation: str
    items: Answer
    place: int | None = None
    word: int | None = None

    def answers(self) -> Iterator[Answer]:
        """Yield every valid answer once."""
        items, kind = self.items, self.operation.partition("-")[0]
        if kind == "shuffle":
            yield from (permutation for permutation in permutations(items) if permutation != items)
            return
        if kind in ("copy", "reverse", "sort"):
            yield {"copy": items, "reverse": items[::-1], "sort": tuple(sorted(items))}[kind]
            return
        word = () if self.word is None else (self.word,)
        for place in _places(self):
            yield (*items[:place], *word, *items[place if kind == "insert" else place + 1 :])

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether a list is a valid answer, without enumerating the answers of a shuffle."""
        if self.operation == "shuffle":
            return sorted(given) == sorted(self.items) and tuple(given) != self.items
        return tuple(given) in set(self.answers())


def draw_sample(operation: str, length: int, generator: torch.Generator) -> Sample:
    """Sample a list of a length, and the arguments of the operation."""
    letters: list[int] = torch.randperm(LETTERS, generator=generator)[: length + 1].tolist()
    places = length + 1 if operation == "insert-index" else length
    place = int(torch.randint(places, (), generator=generator))
    return sample_of(operation, tuple(letters[:length]), place, letters[length])


def sample_of(operation: str, items: Answer, place: int, word: int) -> Sample:
    """Return the sample of an operation, with position and new letter if it needs them."""
    kind, _, direction = operation.partition("-")
    needs_word = kind in ("insert", "replace")
    return Sample(operation, items, place if direction == "index" else None, word if needs_word else None)


def _places(sample: Sample) -> Sequence[int]:
    if sample.place is not None:
        return [sample.place]
    return range(len(sample.items) + (sample.operation == "insert-random"))


@final
class ListTokenizer:
    """Tokenizer with single tokens for letters, digits, operations and signs; text is separated by blanks."""

    padding, begin, separator, end = range(4)
    ends = frozenset({end})

    def __init__(self) -> None:
        self._words = ("_", "[", "]", ".", *ascii_uppercase, *map(str, range(_INDICES)), *OPERATIONS)
        self._numbers = {word: number for number, word in enumerate(self._words)}

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self._words)

    @property
    def prompt_length(self) -> int:
        """Number of tokens of every prompt."""
        return _PROMPT

    @property
    def answer_length(self) -> int:
        """Number of tokens of every answer; shorter lists are padded with end tokens."""
        return _SLOTS

    def encode(self, text: str) -> list[int]:
        """Return the tokens of words; unknown words are dropped."""
        return [self._numbers[word] for word in text.split() if word in self._numbers]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words of tokens."""
        return " ".join(self._words[token] for token in tokens if token not in (self.padding, self.end))

    def letters(self, items: Sequence[int]) -> list[int]:
        """Return the tokens of letters."""
        return [self._numbers["A"] + item for item in items]

    def prompt(self, sample: Sample) -> list[int]:
        """Return the prompt of a sample."""
        items = self.letters(sample.items)
        index = self.padding if sample.place is None else self._numbers[str(sample.place)]
        word = self.padding if sample.word is None else self.letters([sample.word])[0]
        filled = [*items, *[self.padding] * (_SLOTS - len(items))]
        return [self.begin, self._numbers[sample.operation], index, word, *filled, self.separator]

    def answer(self, items: Sequence[int]) -> list[int]:
        """Return the answer of a list, padded with end tokens."""
        return [*self.letters(items), *[self.end] * (_SLOTS - len(items))]

    def parse_list(self, answer: Sequence[int]) -> list[int] | None:
        """Return the list of an answer; None if it has other tokens, or letters after an end token."""
        count = next((place for place, token in enumerate(answer) if token == self.end), len(answer))
        first = self._numbers["A"]
        is_list = all(first <= token < first + LETTERS for token in answer[:count])
        return [token - first for token in answer[:count]] if is_list and set(answer[count:]) <= {self.end} else None
