"""Which tokens at their places, the mask token among them, make a text of the batch: those in the second span.

Every token of a text sees all others, so no prefixes grow: whole arrangements are tried, or descend to the span.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.results import NothingFound
from attacks.text._span_search import SpanReading

_TRIES_A_START = 10
_FEW = 50_000  # arrangements
_CONTEXTS, _ROUNDS, _STARTS = 2, 3, 10


@torch.no_grad()
def arranged(
    reading: SpanReading, tokens: Sequence[Tensor], most: int, tries: int, generator: torch.Generator
) -> Tensor:
    """Return sentences (B, T) whose inputs lie in the second span, at most so many.

    Where there are few arrangements of the tokens at their places, all are tried.

    Raises:
        NothingFound: there is none.
    """
    if math.prod(map(len, tokens)) <= _FEW:
        every = torch.cartesian_prod(*tokens).view(-1, len(tokens))
        scores = reading.whole(every, len(tokens))
        inside = reading.test.tokens(scores)
        sentences = list(every[inside][scores[inside].argsort()][:most])
    else:
        sentences = _sought(reading, tokens, most, tries, generator)
    if sentences:
        return torch.stack(sentences)
    raise NothingFound("no arrangement of the tokens at their places that was tried lies in the second span")


def _sought(
    reading: SpanReading, tokens: Sequence[Tensor], most: int, tries: int, generator: torch.Generator
) -> list[Tensor]:
    """Return sentences (T,): those of aligned tokens, then ends of descents from these, then of random descents."""
    most = min(most, max(1, round(reading.spaces[1].size / len(tokens))))  # those without a masked place add no rank
    sentences: list[Tensor] = []
    for _ in range(_CONTEXTS):
        if len(sentences) >= most:
            break
        starts = _aligned(reading, tokens, generator)
        inside = reading.test.tokens(reading.whole(starts, len(tokens)))
        _add(sentences, starts[inside])
        for start in starts[~inside][:_STARTS]:
            if len(sentences) >= most:
                break
            end = _descended(reading, tokens, start)
            _add(sentences, end[None][reading.test.tokens(reading.whole(end[None], len(tokens)))])
    for _ in range(most - len(sentences)):
        end = _searched(reading, tokens, sentences, tries, generator)
        if end is None:
            break
        sentences.append(end)
    return sentences[:most]


def _add(known: list[Tensor], sentences: Tensor) -> None:
    """Add sentences (N, T) that were not found yet."""
    for sentence in sentences:
        if not any(torch.equal(sentence, other) for other in known):
            known.append(sentence)


def _aligned(reading: SpanReading, tokens: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Return arrangements (N, T) of tokens that lie outside the second span in one direction, the nearest first.

    Near even attention, the input at a place is that of its token, x, and what its text gives to all places, u; x + u
    lies in the span. So in any text, x lies outside by what that text gives less u: one direction for each true text.
    """
    fewest = min(range(len(tokens)), key=lambda place: len(tokens[place]))
    context = _random_sentence(tokens, generator)
    rests = [_rests(reading, context, place, candidates) for place, candidates in enumerate(tokens)]
    starts = {tuple(sentence): near for sentence, near in (_along(rests, tokens, first) for first in rests[fewest])}
    return torch.tensor(sorted(starts, key=starts.__getitem__, reverse=True))


def _along(rests: Sequence[Tensor], tokens: Sequence[Tensor], direction: Tensor) -> tuple[list[int], float]:
    """Return the token at each place whose rest is nearest to a direction, then to their mean; and how near."""
    chosen, total = list[int](), direction
    for _ in range(_ROUNDS):
        chosen = [int((rest @ total).argmax()) for rest in rests]
        total = torch.stack([rest[one] for rest, one in zip(rests, chosen, strict=True)]).sum(0)
    return [int(candidates[one]) for candidates, one in zip(tokens, chosen, strict=True)], float(total.norm())


def _rests(reading: SpanReading, context: Tensor, place: int, tokens: Tensor) -> Tensor:
    """Return where the inputs of tokens (M,) at a place of a text lie outside the second span, unit vectors (M, d)."""
    texts = context.repeat(len(tokens), 1)
    texts[:, place] = tokens
    (inputs, *_) = reading.front.read_all(texts)
    return F.normalize(inputs[:, place].double() @ reading.spaces[1].outside, dim=-1)


def _is_inside(reading: SpanReading, sentence: Tensor) -> bool:
    return bool(reading.test.tokens(reading.whole(sentence[None], len(sentence))))


def _searched(
    reading: SpanReading, tokens: Sequence[Tensor], known: Sequence[Tensor], tries: int, generator: torch.Generator
) -> Tensor | None:
    """Return a sentence (T,) in the second span that is not known, or None.

    A random arrangement descends; then a third of its tokens are drawn again and it descends, and stays where that is
    nearer. Every few tries a new one begins, of tokens that no known sentence has, where there are some.
    """
    fresh = [
        candidates[[int(token) not in taken for token in candidates]]
        for candidates, taken in zip(tokens, _taken(known, tokens), strict=True)
    ]
    fresh = [new if len(new) else candidates for new, candidates in zip(fresh, tokens, strict=True)]
    best, least = torch.empty(0), float("inf")
    for number in range(tries):
        if number % _TRIES_A_START == 0:
            best, least = _random_sentence(fresh, generator), float("inf")
        again = torch.rand(len(tokens), generator=generator) < (number % _TRIES_A_START > 0) / 3
        end = _descended(reading, tokens, torch.where(again, _random_sentence(tokens, generator), best))
        if any(torch.equal(end, sentence) for sentence in known):
            continue
        if (distance := float(_distances(reading, end[None]))) < least:
            best, least = end, distance
        if _is_inside(reading, end):
            return end
    return None


def _taken(known: Sequence[Tensor], tokens: Sequence[Tensor]) -> list[set[int]]:
    """Return the tokens of known sentences at each place."""
    return [{int(sentence[place]) for sentence in known} for place in range(len(tokens))]


def _random_sentence(tokens: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Draw a token at each place, (T,)."""
    return torch.stack([candidates[torch.randint(len(candidates), (), generator=generator)] for candidates in tokens])


def _descended(reading: SpanReading, tokens: Sequence[Tensor], sentence: Tensor) -> Tensor:
    """Change a sentence until no other token at a place, and no exchange of two places, brings it nearer to the span.

    Under even attention an order of the same tokens gives all places the same, so exchanges matter.
    """
    while True:
        before = sentence
        for place, candidates in enumerate(tokens):
            if len(candidates) > 1:
                others = sentence.repeat(len(candidates), 1)
                others[:, place] = candidates
                sentence = others[_distances(reading, others).argmin()]
        sentence = _exchanged(reading, tokens, sentence)
        if torch.equal(sentence, before):
            return sentence


def _exchanged(reading: SpanReading, tokens: Sequence[Tensor], sentence: Tensor) -> Tensor:
    """Exchange the tokens of two places, the best pair each time, while that brings the sentence nearer to the span."""
    allowed = [set(candidates.tolist()) for candidates in tokens]
    while True:
        words = sentence.tolist()
        others = [sentence]
        for one, other in combinations(range(len(words)), 2):
            if words[one] != words[other] and words[other] in allowed[one] and words[one] in allowed[other]:
                order = list(range(len(words)))
                order[one], order[other] = other, one
                others.append(sentence[order])
        best = int(_distances(reading, torch.stack(others)).argmin())
        if best == 0:
            return sentence
        sentence = others[best]


def _distances(reading: SpanReading, sentences: Tensor) -> Tensor:
    """Return the mean distance of each sentence's inputs from the second span, (N,)."""
    (inputs, *_) = reading.front.read_all(sentences)
    return reading.spaces[1].distance(inputs).double().mean(-1)
