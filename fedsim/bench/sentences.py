"""Words to sentence, a task of ParallelBench, over a small language: a grammatical sentence with all given words.

Kang et al. 2025, arXiv 2510.04767, whose judge of grammar is a model; here it is a context-free grammar. A word is one
token. Fewer given words allow more answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product

import torch

_ARTICLES, _ADJECTIVES = ("the", "a"), ("old", "small", "quick")
_NOUNS, _VERBS, _TIMES = (
    ("dog", "cat", "bird", "child", "guest"),
    ("sees", "hears", "likes", "follows"),
    ("today", "often"),
)
WORDS = (*_ARTICLES, *_ADJECTIVES, *_NOUNS, *_VERBS, *_TIMES)
_GIVEN = {"sentence-easy": 4, "sentence-medium": 3, "sentence-hard": 2}

Words = tuple[int, ...]


@lru_cache(maxsize=1)
def sentences() -> frozenset[Words]:
    """Return all sentences: a phrase, a verb, a phrase and optionally a time; a phrase may have an adjective."""
    phrases = [[word for word in phrase if word] for phrase in product(_ARTICLES, ("", *_ADJECTIVES), _NOUNS)]
    times = [[], *([time] for time in _TIMES)]
    combinations = product(phrases, _VERBS, phrases, times)
    return frozenset(
        tuple(map(WORDS.index, (*subject, verb, *object_, *time))) for subject, verb, object_, time in combinations
    )


@dataclass(frozen=True)
class SentencePuzzle:
    """Words that a sentence must contain.

    Attributes:
        operation: its name.
        words: set of words.
    """

    operation: str
    words: frozenset[int]

    def answers(self) -> Iterator[Words]:
        """Yield all sentences with these words."""
        yield from (sentence for sentence in _sorted_sentences() if self.words <= set(sentence))

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether words are a sentence with all given words."""
        return tuple(given) in sentences() and self.words <= set(given)


def draw_sentence(count: int, operation: str, generator: torch.Generator) -> SentencePuzzle:
    """Sample a sentence, and `count` of its words other than articles."""
    known = _sorted_sentences()
    while True:
        sentence = known[int(torch.randint(len(known), (), generator=generator))]
        content = sorted({word for word in sentence if word >= len(_ARTICLES)})
        if len(content) >= count:
            order: list[int] = torch.randperm(len(content), generator=generator)[:count].tolist()
            return SentencePuzzle(operation, frozenset(content[place] for place in order))


@lru_cache(maxsize=1)
def _sorted_sentences() -> tuple[Words, ...]:
    return tuple(sorted(sentences()))


SENTENCES: Mapping[str, Callable[[str, torch.Generator], SentencePuzzle]] = {
    name: partial(draw_sentence, count) for name, count in _GIVEN.items()
}
