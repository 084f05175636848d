"""Operations on short lists of letters: what each asks, and which lists answer it.

Those named `random` have many answers, all alike likely, so that the places of an answer depend on each other.
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
_SLOTS = 8  # of a list in a prompt, and of an answer
_INDICES = 10
_PROMPT = 4 + _SLOTS + 1  # begin, operation, index, new letter, the list, separator

Answer = tuple[int, ...]


class Sample(NamedTuple):
    """What an operation asks of a list of letters: 0 is A.

    Attributes:
        operation: one of `OPERATIONS`.
        items: different letters.
        place: where, counted from 0, for operations on an index; else None.
        word: a letter that is not in the list, for those that insert or replace; else None.
    """

    operation: str
    items: Answer
    place: int | None = None
    word: int | None = None

    def answers(self) -> Iterator[Answer]:
        """Yield every list that answers, each once."""
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
        """Say whether a list answers: of a shuffle without writing all of them down."""
        if self.operation == "shuffle":
            return sorted(given) == sorted(self.items) and tuple(given) != self.items
        return tuple(given) in set(self.answers())


def draw_sample(operation: str, length: int, generator: torch.Generator) -> Sample:
    """Draw a list of a length, and what the operation needs beside it."""
    letters: list[int] = torch.randperm(LETTERS, generator=generator)[: length + 1].tolist()
    places = length + 1 if operation == "insert-index" else length
    place = int(torch.randint(places, (), generator=generator))
    return sample_of(operation, tuple(letters[:length]), place, letters[length])


def sample_of(operation: str, items: Answer, place: int, word: int) -> Sample:
    """Return what an operation asks of a list, with the place and the new letter if it needs them."""
    kind, _, which = operation.partition("-")
    needs_word = kind in ("insert", "replace")
    return Sample(operation, items, place if which == "index" else None, word if needs_word else None)


def _places(sample: Sample) -> Sequence[int]:
    if sample.place is not None:
        return [sample.place]
    return range(len(sample.items) + (sample.operation == "insert-random"))


@final
class ListTokenizer:
    """Letters, digits, operations and signs are one token each; text is read and written with blanks between them."""

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
        """Tokens of every prompt."""
        return _PROMPT

    @property
    def answer_length(self) -> int:
        """Places of every answer; behind a shorter list stand ends."""
        return _SLOTS

    def encode(self, text: str) -> list[int]:
        """Return the tokens of words; unknown ones are left out."""
        return [self._numbers[word] for word in text.split() if word in self._numbers]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words of tokens."""
        return " ".join(self._words[token] for token in tokens if token not in (self.padding, self.end))

    def letters(self, items: Sequence[int]) -> list[int]:
        """Return the tokens of letters."""
        return [self._numbers["A"] + item for item in items]

    def prompt(self, sample: Sample) -> list[int]:
        """Return the prompt that asks."""
        items = self.letters(sample.items)
        index = self.padding if sample.place is None else self._numbers[str(sample.place)]
        word = self.padding if sample.word is None else self.letters([sample.word])[0]
        filled = [*items, *[self.padding] * (_SLOTS - len(items))]
        return [self.begin, self._numbers[sample.operation], index, word, *filled, self.separator]

    def answer(self, items: Sequence[int]) -> list[int]:
        """Return the answer that is a list, with ends behind it."""
        return [*self.letters(items), *[self.end] * (_SLOTS - len(items))]

    def listed(self, answer: Sequence[int]) -> list[int] | None:
        """Return the list that an answer is; None where it has other tokens, or letters behind an end."""
        count = next((place for place, token in enumerate(answer) if token == self.end), len(answer))
        first = self._numbers["A"]
        is_list = all(first <= token < first + LETTERS for token in answer[:count])
        return [token - first for token in answer[:count]] if is_list and set(answer[count:]) <= {self.end} else None
