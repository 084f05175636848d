"""Assemble texts from candidate tokens per position, the mask token included, tested against the second layer's span.

For models with bidirectional attention: every token attends to all others, so prefixes cannot be grown. Whole
arrangements are enumerated, or improved by local search until they lie in the span.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.results import NothingFound
from attacks.text._span_search import ScoredSentence, SpanReading
from fedsim.core.types import InputSpec, OnStep, Step

_TRIES_A_START = 10
_MARGIN = 1.1  # rounding hides up to a tenth of a span's directions
_FEW = 50_000  # arrangements
_CONTEXTS, _ROUNDS, _STARTS = 6, 3, 10


def arrange(
    reading: SpanReading,
    tokens: Sequence[Tensor],
    spec: InputSpec,
    limit: int | None,
    tries: int,
    generator: torch.Generator,
    on_step: OnStep,
) -> list[ScoredSentence]:
    """Return the sentences in the second span, for each length that padding allows, the longest first.

    Args:
        reading: spans of a model with bidirectional attention.
        tokens: candidate tokens of each position.
        spec: spec of the examples.
        limit: number of sentences in the batch; None if unknown, then the rank of the span is the limit.
        tries: local searches for each sentence of a length.
        generator: for random arrangements.
        on_step: called for each length with sentences.

    Raises:
        NothingFound: no sentence lies in the second span.
    """
    (end,) = spec.shape
    size = reading.spaces[1].size
    limit = limit or round(size)
    sentences: list[ScoredSentence] = []
    for length in range(end, end - 1 if spec.padding is None else 0, -1):
        if length > _MARGIN * size:
            continue  # the span has too few dimensions left
        try:
            same_length = arrange_tokens(reading, tokens[:length], limit, tries, generator)
        except NothingFound:
            continue
        on_step(Step(0, length, end, 0.0, 0.0, same_length))
        scores = reading.whole(same_length).tolist()
        sentences += map(ScoredSentence, map(tuple, same_length.tolist()), scores)
        size -= length * len(same_length)
        if len(sentences) >= limit:
            break
    if sentences:
        return sentences
    raise NothingFound(
        "the model looks ahead, and no arrangement of the tokens at their places that was tried lies in the second span"
    )


@torch.no_grad()
def arrange_tokens(
    reading: SpanReading, tokens: Sequence[Tensor], limit: int, tries: int, generator: torch.Generator
) -> Tensor:
    """Return at most `limit` sentences (B, T) whose inputs lie in the second span.

    All arrangements of the candidate tokens are enumerated if their number is small.

    Raises:
        NothingFound: a position has no candidate, or no tried arrangement lies in the second span.
    """
    if (count := math.prod(map(len, tokens))) == 0:
        raise NothingFound("at some place no token lies in the first span")
    if count <= _FEW:
        combinations = torch.cartesian_prod(*tokens).view(-1, len(tokens))
        scores = reading.whole(combinations)
        is_inside = reading.test.tokens(scores)
        sentences = list(combinations[is_inside][scores[is_inside].argsort()][:limit])
    else:
        sentences = _sought(reading, tokens, limit, tries, generator)
    if sentences:
        return torch.stack(sentences)
    raise NothingFound("no arrangement of the tokens at their places that was tried lies in the second span")


def _sought(
    reading: SpanReading, tokens: Sequence[Tensor], limit: int, tries: int, generator: torch.Generator
) -> list[Tensor]:
    """Return sentences (T,) from aligned arrangements, then from local searches of these and of random starts."""
    limit = min(limit, max(1, round(reading.spaces[1].size / len(tokens))))  # unmasked sentences add no rank
    sentences: list[Tensor] = []
    for place in _telling_apart(tokens, limit)[:_CONTEXTS]:
        if len(sentences) >= limit:
            break
        starts = _find_aligned_starts(reading, _fresh(tokens, sentences), place, generator)
        is_inside = reading.test.tokens(reading.whole(starts))
        _add(sentences, starts[is_inside])
        for start in starts[~is_inside][:_STARTS]:
            if len(sentences) >= limit:
                break
            end = _improve_sentence(reading, tokens, start)
            _add(sentences, end[None][reading.test.tokens(reading.whole(end[None]))])
    for _ in range(limit - len(sentences)):
        end = _search_sentence(reading, tokens, sentences, tries, generator)
        if end is None:
            break
        sentences.append(end)
    return sentences[:limit]


def _add(known: list[Tensor], sentences: Tensor) -> None:
    """Append the sentences (N, T) that are not yet in `known`."""
    for sentence in sentences:
        if not any(torch.equal(sentence, known_sentence) for known_sentence in known):
            known.append(sentence)


def _telling_apart(tokens: Sequence[Tensor], limit: int) -> list[int]:
    """Return the positions ordered by number of candidates; positions with fewer candidates than sentences come last.

    Sentences that share a token at a position, such as the first token, cannot be distinguished there.
    """
    enough = min(limit, max(map(len, tokens)))
    return sorted(range(len(tokens)), key=lambda place: (len(tokens[place]) < enough, len(tokens[place])))


def _find_aligned_starts(
    reading: SpanReading, tokens: Sequence[Tensor], start: int, generator: torch.Generator
) -> Tensor:
    """Return arrangements (N, T) whose residuals outside the second span share a direction, for each token at `start`.

    Near uniform attention, the input at a position is x + u: x depends on its token, u on the whole text and is equal
    at
    all positions. For a true text x + u lies in the span, so the components of all its x outside the span equal that of
    -u: a single direction for each true text.
    """
    context = _random_sentence(tokens, generator)
    rests = [_rests(reading, context, place, candidates) for place, candidates in enumerate(tokens)]
    starts = {
        tuple(sentence): candidates for sentence, candidates in (_along(rests, tokens, first) for first in rests[start])
    }
    return torch.tensor(sorted(starts, key=starts.__getitem__, reverse=True))


def _along(rests: Sequence[Tensor], tokens: Sequence[Tensor], direction: Tensor) -> tuple[list[int], float]:
    """Return the token at each position whose residual is nearest to a direction, and the norm of their sum.

    The direction is replaced by the sum of the chosen residuals, `_ROUNDS` times.
    """
    chosen, total = list[int](), direction
    for _ in range(_ROUNDS):
        chosen = [int((remaining @ total).argmax()) for remaining in rests]
        total = torch.stack([remaining[index] for remaining, index in zip(rests, chosen, strict=True)]).sum(0)
    return [int(candidates[index]) for candidates, index in zip(tokens, chosen, strict=True)], float(total.norm())


def _rests(reading: SpanReading, context: Tensor, place: int, tokens: Tensor) -> Tensor:
    """Return unit residuals (M, d) outside the second span of the inputs of tokens (M,) at a position of a text."""
    texts = context.repeat(len(tokens), 1)
    texts[:, place] = tokens
    (inputs, *_) = reading.front.read_all(texts)
    return F.normalize(reading.spaces[1].project_inputs(inputs[:, place].double()) @ reading.spaces[1].outside, dim=-1)


def _is_inside(reading: SpanReading, sentence: Tensor) -> bool:
    return bool(reading.test.tokens(reading.whole(sentence[None])))


def _search_sentence(
    reading: SpanReading, tokens: Sequence[Tensor], known: Sequence[Tensor], tries: int, generator: torch.Generator
) -> Tensor | None:
    """Return a sentence (T,) in the second span that is not known, or None.

    Iterated local search: a local optimum is perturbed by redrawing a third of its tokens, searched again, and kept if
    it
    is nearer to the span. Every `_TRIES_A_START` tries the search restarts from tokens that no known sentence has.
    """
    fresh = _fresh(tokens, known)
    best, least = torch.empty(0), float("inf")
    for number in range(tries):
        if number % _TRIES_A_START == 0:
            best, least = _random_sentence(fresh, generator), float("inf")
        is_restarted = torch.rand(len(tokens), generator=generator) < (number % _TRIES_A_START > 0) / 3
        end = _improve_sentence(reading, tokens, torch.where(is_restarted, _random_sentence(tokens, generator), best))
        if any(torch.equal(end, sentence) for sentence in known):
            continue
        if (distance := float(_distances(reading, end[None]))) < least:
            best, least = end, distance
        if _is_inside(reading, end):
            return end
    return None


def _fresh(tokens: Sequence[Tensor], known: Sequence[Tensor]) -> list[Tensor]:
    """Return the candidates at each position that no known sentence uses there; all candidates if none is left."""
    taken = ({int(sentence[place]) for sentence in known} for place in range(len(tokens)))
    left = [
        candidates[[int(token) not in taken_tokens for token in candidates]]
        for candidates, taken_tokens in zip(tokens, taken, strict=True)
    ]
    return [
        left_tokens if len(left_tokens) else all_tokens for left_tokens, all_tokens in zip(left, tokens, strict=True)
    ]


def _random_sentence(tokens: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Sample a token at each position, (T,)."""
    return torch.stack([candidates[torch.randint(len(candidates), (), generator=generator)] for candidates in tokens])


def _improve_sentence(reading: SpanReading, tokens: Sequence[Tensor], sentence: Tensor) -> Tensor:
    """Improve a sentence until no replaced token and no swap of two positions brings it nearer to the span.

    Under uniform attention all orders of the same tokens give every position the same input, so swaps matter.
    """
    while True:
        before = sentence
        for place, candidates in enumerate(tokens):
            if len(candidates) > 1:
                repeated = sentence.repeat(len(candidates), 1)
                repeated[:, place] = candidates
                sentence = repeated[_distances(reading, repeated).argmin()]
        sentence = _swap_tokens(reading, tokens, sentence)
        if torch.equal(sentence, before):
            return sentence


def _swap_tokens(reading: SpanReading, tokens: Sequence[Tensor], sentence: Tensor) -> Tensor:
    """Swap the tokens of two positions, the best pair each time, while the distance to the span decreases."""
    allowed = [set(candidates.tolist()) for candidates in tokens]
    while True:
        words = sentence.tolist()
        exchanged = [sentence]
        for first, second in combinations(range(len(words)), 2):
            if words[first] != words[second] and words[second] in allowed[first] and words[first] in allowed[second]:
                order = list(range(len(words)))
                order[first], order[second] = second, first
                exchanged.append(sentence[order])
        best = int(_distances(reading, torch.stack(exchanged)).argmin())
        if best == 0:
            return sentence
        sentence = exchanged[best]


def _distances(reading: SpanReading, sentences: Tensor) -> Tensor:
    """Return the mean distance of each sentence's inputs from the second span, (N,)."""
    (inputs, *_) = reading.front.read_all(sentences)
    return reading.spaces[1].distance(inputs).double().mean(-1)
