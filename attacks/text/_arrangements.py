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
    most: int | None,
    tries: int,
    generator: torch.Generator,
    on_step: OnStep,
) -> list[ScoredSentence]:
    """Return the sentences in the second span, for each length that padding allows, the longest first.

    Args:
        reading: of a model that looks ahead.
        tokens: tokens to try at each place.
        spec: spec of the examples.
        most: sentences of the batch; None where that is not known, and the rank of the span limits them.
        tries: descents in search of each sentence of a length.
        generator: for random arrangements.
        on_step: called for each length.

    Raises:
        NothingFound: there are none.
    """
    (end,) = spec.shape
    rest = reading.spaces[1].size
    most = most or round(rest)
    sentences: list[ScoredSentence] = []
    for length in range(end, end - 1 if spec.padding is None else 0, -1):
        if length > _MARGIN * rest:
            continue  # the span has no room for so many further inputs
        try:
            same_length = arranged(reading, tokens[:length], most, tries, generator)
        except NothingFound:
            continue
        on_step(Step(0, length, end, 0.0, 0.0, same_length))
        scores = reading.whole(same_length).tolist()
        sentences += map(ScoredSentence, map(tuple, same_length.tolist()), scores)
        rest -= length * len(same_length)
        if len(sentences) >= most:
            break
    if sentences:
        return sentences
    raise NothingFound(
        "the model looks ahead, and no arrangement of the tokens at their places that was tried lies in the second span"
    )


@torch.no_grad()
def arranged(
    reading: SpanReading, tokens: Sequence[Tensor], most: int, tries: int, generator: torch.Generator
) -> Tensor:
    """Return sentences (B, T) whose inputs lie in the second span, at most so many.

    Where there are few arrangements of the tokens at their places, all are tried.

    Raises:
        NothingFound: there is none.
    """
    if (count := math.prod(map(len, tokens))) == 0:
        raise NothingFound("at some place no token lies in the first span")
    if count <= _FEW:
        every = torch.cartesian_prod(*tokens).view(-1, len(tokens))
        scores = reading.whole(every)
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
    for place in _telling_apart(tokens, most)[:_CONTEXTS]:
        if len(sentences) >= most:
            break
        starts = _aligned(reading, _fresh(tokens, sentences), place, generator)
        inside = reading.test.tokens(reading.whole(starts))
        _add(sentences, starts[inside])
        for start in starts[~inside][:_STARTS]:
            if len(sentences) >= most:
                break
            end = _descended(reading, tokens, start)
            _add(sentences, end[None][reading.test.tokens(reading.whole(end[None]))])
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


def _telling_apart(tokens: Sequence[Tensor], most: int) -> list[int]:
    """Return the places, first those with the fewest tokens among those with one for each of `most` sentences.

    Sentences that share a token at a place, as their first one, are not told apart there.
    """
    enough = min(most, max(map(len, tokens)))
    return sorted(range(len(tokens)), key=lambda place: (len(tokens[place]) < enough, len(tokens[place])))


def _aligned(reading: SpanReading, tokens: Sequence[Tensor], start: int, generator: torch.Generator) -> Tensor:
    """Return arrangements (N, T) that lie outside the second span in one direction, from each token at place `start`.

    Near even attention, the input at a place is that of its token, x, and what its text gives to all places, u; x + u
    lies in the span. So in any text, x lies outside by what that text gives less u: one direction for each true text.
    """
    context = _random_sentence(tokens, generator)
    rests = [_rests(reading, context, place, candidates) for place, candidates in enumerate(tokens)]
    starts = {tuple(sentence): near for sentence, near in (_along(rests, tokens, first) for first in rests[start])}
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
    return F.normalize(reading.spaces[1].seen(inputs[:, place].double()) @ reading.spaces[1].outside, dim=-1)


def _is_inside(reading: SpanReading, sentence: Tensor) -> bool:
    return bool(reading.test.tokens(reading.whole(sentence[None])))


def _searched(
    reading: SpanReading, tokens: Sequence[Tensor], known: Sequence[Tensor], tries: int, generator: torch.Generator
) -> Tensor | None:
    """Return a sentence (T,) in the second span that is not known, or None.

    A random arrangement descends; then a third of its tokens are drawn again and it descends, and stays where that is
    nearer. Every few tries a new one begins, of tokens that no known sentence has, where there are some.
    """
    fresh = _fresh(tokens, known)
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


def _fresh(tokens: Sequence[Tensor], known: Sequence[Tensor]) -> list[Tensor]:
    """Return the tokens at each place that no known sentence has there; all of them where that leaves none."""
    taken = ({int(sentence[place]) for sentence in known} for place in range(len(tokens)))
    left = [
        candidates[[int(token) not in others for token in candidates]]
        for candidates, others in zip(tokens, taken, strict=True)
    ]
    return [some if len(some) else every for some, every in zip(left, tokens, strict=True)]


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
