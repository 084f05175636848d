"""Search tokens and sentences whose attention inputs lie in the spans of the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.results import NothingFound
from attacks.text._beam import apart
from attacks.text._prefixes import Front
from attacks.text._span_tests import ShareThreshold, SpanTest, widest
from attacks.text._subspaces import Subspace
from fedsim.core.types import InputSpec, OnStep, Step

_SCANNED = 4096  # inputs per batch of the token search
_TRIED = 1024  # sequences per batch
_BRANCHES = 128  # tokens per batch after a prefix: the attention mask is quadratic in their number


class ScoredSentence(NamedTuple):
    """A sequence of tokens and its score; smaller is further inside the span."""

    tokens: tuple[int, ...]
    score: float


class SpanReading(NamedTuple):
    """The first blocks, the spans of their attentions' inputs, and the span test.

    Attributes:
        front: runs the first blocks.
        spaces: span of each attention's inputs.
        test: decides which inputs lie in the spans.
    """

    front: Front
    spaces: Sequence[Subspace]
    test: SpanTest

    def tokens(self, spec: InputSpec) -> list[Tensor]:
        """Return the possible tokens at each position, shape (M,) each.

        Raises:
            NothingFound: no token lies in the first span.
        """
        (length,) = spec.shape
        places = length if self.front.knows_places() else 1
        vocabulary = torch.arange(spec.vocabulary or 0)
        parts = vocabulary.split(max(1, _SCANNED // places))
        read = (self.front.read_first(part[:, None].expand(-1, places)) for part in parts)
        distances = torch.cat([self.spaces[0].distance(vectors) for vectors in read])
        fitting = [vocabulary[self.test.tokens(self.test.scores(column[:, None]))] for column in distances.T]
        if not any(map(len, fitting)):
            raise NothingFound("no token's embedding lies in the span of the first attention gradient")
        return fitting * (length // places)

    def extension_scores(self, prefixes: Tensor, tokens: Tensor) -> Tensor:
        """Return the scores of each of tokens (K,) appended to each of prefixes (N, t), shape (N, K)."""
        if not len(tokens):
            return torch.empty(len(prefixes), 0)
        parts = [
            torch.cat([self._scores(self.front.read_behind(part, chunk)) for chunk in tokens.split(_BRANCHES)], 1)
            for part in prefixes.split(max(1, _TRIED // min(len(tokens), _BRANCHES)))
        ]
        return torch.cat(parts)

    def whole(self, sequences: Tensor) -> Tensor:
        """Return the scores of sequences (N, T), shape (N,)."""
        read = map(self.front.read_all, sequences.split(_TRIED))
        return torch.cat([self.test.sequences(self._scores(vectors)) for vectors in read])

    def widen_tolerance(self, spec: InputSpec) -> SpanReading | None:
        """Return a copy with the largest tolerance that excludes chance matches, or None.

        None means that the largest tolerance is not larger than the present tolerance, or that spans are soft.
        """
        if not isinstance(self.test, ShareThreshold):
            return None
        rooms = ((len(space.outside), round(space.size)) for space in self.spaces)
        tolerance = min(widest(*room, max(2, spec.vocabulary or 0)) for room in rooms)
        if tolerance <= self.test.tolerance:
            return None
        return self._replace(test=replace(self.test, tolerance=tolerance))

    def lacks(self, tokens: Sequence[Tensor], sentences: Sequence[ScoredSentence]) -> bool:
        """Return whether fewer inputs were found than a span has dimensions."""
        places = len(tokens) if self.front.knows_places() else 1
        beginnings = {sentence.tokens[:end] for sentence in sentences for end in range(1, len(sentence.tokens) + 1)}
        first, second, *_ = self.spaces
        return sum(map(len, tokens[:places])) < round(first.size) or len(beginnings) < round(second.size)

    def _scores(self, read: list[Tensor]) -> Tensor:
        distances = torch.stack(
            [space.distance(vectors) for space, vectors in zip(self.spaces[1:], read, strict=True)], -1
        )
        return self.test.scores(distances.flatten(0, -2)).view(distances.shape[:-1])


def read_sentences(reading: SpanReading, spec: InputSpec, on_step: OnStep) -> tuple[list[Tensor], list[ScoredSentence]]:
    """Return the tokens in the first span, at each position, and the sentences in the second.

    Tokens with a small loss contribute little to a gradient, and rounding turns their direction. If fewer inputs were
    found than a span has dimensions, the search is repeated with a larger tolerance.

    Raises:
        NothingFound: no token or no prefix lies in the spans, or too many prefixes do.
    """
    tokens = reading.tokens(spec)
    sentences = grow_prefixes(reading, tokens, on_step)
    wider = reading.widen_tolerance(spec)
    if wider is None or not reading.lacks(tokens, sentences):
        return tokens, sentences
    wider_tokens = wider.tokens(spec)
    try:
        return wider_tokens, grow_prefixes(wider, wider_tokens, on_step)
    except NothingFound:
        return tokens, sentences


def grow_prefixes(reading: SpanReading, tokens: Sequence[Tensor], on_step: OnStep) -> list[ScoredSentence]:
    """Return the maximal prefixes in the spans: they cannot be continued and are not prefixes of others.

    Without positions, attention over repetitions of one token gives the same inputs as over a single token. So any
    number
    of repetitions of a sentence's first token lies in the span; they count as that token.

    Args:
        reading: spans of a causal model.
        tokens: candidate tokens of each position.
        on_step: called for each length, with its prefixes.

    Raises:
        NothingFound: no prefix lies in the spans, or too many do.
    """
    test = reading.test
    prefixes, scores = torch.empty(1, 0, dtype=torch.long), torch.empty(1, 0)
    ended: list[ScoredSentence] = []
    for place, row in enumerate(tokens):
        longer = torch.cat((prefixes.repeat_interleave(len(row), 0), row.repeat(len(prefixes))[:, None]), 1)
        last, before = reading.extension_scores(prefixes, row).flatten(), scores.repeat_interleave(len(row), 0)
        stays = test.prefixes(before, last)
        goes_on = stays.view(len(prefixes), len(row)).any(1)
        ended += _list_sentences(prefixes[~goes_on], scores[~goes_on], test)
        prefixes, scores = longer[stays], torch.cat((before, last[:, None]), 1)[stays]
        if not len(prefixes):
            break
        chosen = test.select_prefixes(test.sequences(scores))
        prefixes, scores = prefixes[chosen], scores[chosen]
        on_step(Step(0, place + 1, len(tokens), 0.0, 0.0, prefixes))
    if sentences := ended + _list_sentences(prefixes, scores, test):
        return _longest(sentences, reading.front.knows_places())
    raise NothingFound("no recovered token begins a sentence with inputs in the second span")


def _longest(sentences: list[ScoredSentence], knows_places: bool) -> list[ScoredSentence]:
    by_tokens = {
        sentence.tokens[:1] if len(set(sentence.tokens)) == 1 and not knows_places else sentence.tokens: sentence.score
        for sentence in sentences
    }
    beginnings = {tokens[:end] for tokens in by_tokens for end in range(len(tokens))}
    return [ScoredSentence(tokens, score) for tokens, score in by_tokens.items() if tokens not in beginnings]


def best(sentences: list[ScoredSentence], count: int, overlap: float) -> list[ScoredSentence]:
    """Return the best `count` sentences that share less than `overlap` of their positions with better ones."""
    ranked = sorted(sentences, key=lambda sentence: sentence.score)
    kept = apart([torch.tensor(sentence.tokens) for sentence in ranked], overlap, count)
    chosen = {tuple(row.tolist()) for row in kept}
    return [sentence for sentence in ranked if sentence.tokens in chosen]


def _list_sentences(prefixes: Tensor, scores: Tensor, test: SpanTest) -> list[ScoredSentence]:
    if not prefixes.numel():
        return []
    return [
        ScoredSentence(tuple(prefix), score)
        for prefix, score in zip(prefixes.tolist(), test.sequences(scores).tolist(), strict=True)
    ]
