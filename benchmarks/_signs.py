"""A tokenizer of texts of a few signs."""

from __future__ import annotations

from collections.abc import Sequence


class Signs:
    """One token a sign; the last one ends a text and fills it up."""

    begin = None

    def __init__(self, signs: str) -> None:
        """Take all signs."""
        self._signs = signs
        self.vocabulary, self.padding, self.end = len(signs), len(signs) - 1, len(signs) - 1
        self.ends = frozenset({self.end})

    def encode(self, text: str) -> list[int]:
        """Return a token for each sign."""
        return [self._signs.index(sign) for sign in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return a sign for each token."""
        return "".join(self._signs[token] for token in tokens)
