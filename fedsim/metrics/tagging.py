"""Span F1 of a tagger: strict IOB2, counted over the corpus.

A span begins with B-X and continues over directly following I-X. I-X that continues no span of its type belongs to
none. A guessed span is correct if a true span has the same borders and the same type. Paper: Tjong Kim Sang, De Meulder
2003, arXiv cs/0306050, section 2.4 (F with beta = 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from fedsim.core.nets.losses import IGNORED

_BEGIN, _INSIDE = "B-", "I-"


class TaggedSpan(NamedTuple):
    """Words `begin` to `end` - 1 of a sentence, and their type."""

    begin: int
    end: int
    kind: str


class SpanScore(NamedTuple):
    """Numbers of spans over all sentences."""

    right: int
    guessed_spans: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the guessed spans that are correct, in [0, 1]; 0 without guesses."""
        return self.right / self.guessed_spans if self.guessed_spans else 0.0

    @property
    def recall(self) -> float:
        """Share of the true spans that were found, in [0, 1]; 0 without true spans."""
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """2 right / (guessed + true), in [0, 1]; 1 without any span."""
        total = self.guessed_spans + self.true
        return 2.0 * self.right / total if total else 1.0


def are_spans(names: Sequence[str]) -> bool:
    """Return whether tags with these names mark spans."""
    return any(name.startswith(_BEGIN) for name in names)


def spans(tags: Sequence[str]) -> list[TaggedSpan]:
    """Return the spans of one sentence from the tags of its words."""
    return list(_spans(tags))


def score_spans(guesses: Tensor, labels: Tensor, names: Sequence[str]) -> SpanScore:
    """Count spans over sentences.

    Args:
        guesses: guessed tags (N, T), as indices.
        labels: true tags (N, T); positions with -100 are ignored in both.
        names: tag names, by index.
    """
    right = guessed = true = 0
    for guess, label in zip(guesses, labels, strict=True):
        guess_spans, true_spans = (_tagged_spans(row[label != IGNORED], names) for row in (guess, label))
        right, guessed, true = right + len(guess_spans & true_spans), guessed + len(guess_spans), true + len(true_spans)
    return SpanScore(right, guessed, true)


def _tagged_spans(tags: Tensor, names: Sequence[str]) -> set[TaggedSpan]:
    numbers: list[int] = tags.tolist()
    return set(_spans([names[number] for number in numbers]))


def _spans(tags: Sequence[str]) -> Iterator[TaggedSpan]:
    begin, kind = 0, ""
    for place, tag in enumerate([*tags, ""]):
        if kind and tag != _INSIDE + kind:
            yield TaggedSpan(begin, place, kind)
            kind = ""
        if tag.startswith(_BEGIN):
            begin, kind = place, tag.removeprefix(_BEGIN)
