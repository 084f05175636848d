"""Paraphrase and summary, tasks of ParallelBench, over a small language with decidable meaning.

Kang et al. 2025, arXiv 2510.04767. Its judges are models (BERTScore, a grammar checker), with BLEU and ROUGE-L against
references, which are unavailable here. Replacements: a paraphrase has the same meaning by a list of synonyms, is a
sentence of the grammar, and differs in a word; a summary of two sentences is subject, verb and object of one of them,
and nothing else. A word is one token. Answers are correct or not, where the benchmark has grades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch

_ARTICLES = ("the", "a")
_ADJECTIVES = (("old", "aged"), ("small", "little"), ("quick", "fast"))
_NOUNS = (("dog", "hound"), ("child", "kid"), ("guest", "visitor"), ("boat", "ship"))
_VERBS = (("sees", "spots"), ("likes", "enjoys"), ("follows", "chases"))
_SYNONYMS = (*_ADJECTIVES, *_NOUNS, *_VERBS)
WORDS = (*_ARTICLES, *sum(_SYNONYMS, ()))
_SAME = {WORDS.index(word): tuple(map(WORDS.index, words)) for words in _SYNONYMS for word in words}

Words = tuple[int, ...]


@dataclass(frozen=True)
class Paraphrase:
    """A sentence to paraphrase.

    Attributes:
        operation: its name.
        sentence: article, adjective, noun, verb, article, adjective, noun.
    """

    operation: str
    sentence: Words

    def answers(self) -> Iterator[Words]:
        """Yield all other sentences of the same meaning."""
        ways = product(*(_SAME.get(word, (word,)) for word in self.sentence))
        yield from (way for way in ways if way != self.sentence)

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether all words are equal or synonymous, and at least one differs."""
        means_the_same = len(given) == len(self.sentence) and all(
            word in _SAME.get(before, (before,)) for word, before in zip(given, self.sentence, strict=True)
        )
        return means_the_same and tuple(given) != self.sentence


@dataclass(frozen=True)
class SummaryOfTwo:
    """Two sentences, one of which is to be summarised.

    Attributes:
        operation: its name.
        sentences: each of the form of `Paraphrase.sentence`.
    """

    operation: str
    sentences: tuple[Words, Words]

    def answers(self) -> Iterator[Words]:
        """Yield subject, verb and object of either sentence, with any articles and synonyms."""
        seen = set[Words]()
        for sentence in self.sentences:
            _, _, subject, verb, _, _, last_word = sentence
            articles = tuple(range(len(_ARTICLES)))
            ways = product(articles, _SAME[subject], _SAME[verb], articles, _SAME[last_word])
            yield from (way for way in ways if way not in seen and not seen.add(way))

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether this is subject, verb and object of either sentence."""
        return tuple(given) in set(self.answers())


def draw_paraphrase(operation: str, generator: torch.Generator) -> Paraphrase:
    """Sample a sentence."""
    return Paraphrase(operation, _sentence(generator))


def draw_summary(operation: str, generator: torch.Generator) -> SummaryOfTwo:
    """Sample two sentences."""
    return SummaryOfTwo(operation, (_sentence(generator), _sentence(generator)))


def _sentence(generator: torch.Generator) -> Words:
    parts = (_ARTICLES, sum(_ADJECTIVES, ()), sum(_NOUNS, ()))
    words = [_word(word, generator) for word in (*parts, sum(_VERBS, ()), *parts)]
    return tuple(map(WORDS.index, words))


def _word(words: Sequence[str], generator: torch.Generator) -> str:
    return words[int(torch.randint(len(words), (), generator=generator))]


REWORDINGS: Mapping[str, Callable[[str, torch.Generator], Paraphrase | SummaryOfTwo]] = {
    "paraphrase": draw_paraphrase,
    "summary": draw_summary,
}
