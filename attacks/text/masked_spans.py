"""masked-spans: read whole texts, masked tokens and rates off one gradient of a model that fills in masked places.

Idea: the first span of attention inputs names the token at each place, and the mask token where one is masked. The
    second span tells which visible tokens belong together. Then what the output layer read is known, and its gradient,
    a sum of products with it, is solved for the token that stood at each masked place, and for its weight.
Equation: dL/dW = sum_i w_i (softmax(z_i) - e_(y_i)) h_i^T over masked places i, w_i = 1 / (B n p): least squares in h.
Assumes: honest-but-curious server, one gradient or step of SGD; tokens know their places; fewer tokens than the width.
Recovers: visible and masked tokens at their places, and each text's rate p, up to rounding.
Fails: dropout, noise, a full span; where sentences have nothing masked, since these have no gradient; many sentences.
Source: spans after Petrov et al. 2024, arXiv 2405.15586; places, arrangement and output layer are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.core.mean_gradient import gradient_weight
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import NothingFound, no_guess
from attacks.text._examples import MASKED
from attacks.text._masked_places import has_no_spans, spans_with_masks
from attacks.text._span_search import Reading
from fedsim.core.hooks import Attack, Effort, Tables
from fedsim.core.layer_calls import layer_inputs
from fedsim.core.masked_places import mask_token
from fedsim.core.output_layer import output_layer
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step

_TRIES_A_START = 10
_FEW = 50_000  # arrangements
_CONTEXTS, _ROUNDS, _STARTS = 2, 3, 10
_DECIMALS = 12  # of what is left of a gradient: those behind depend on where tensors lie in memory
_EXPLAINED = 1e-3  # of the output layer's gradient; single precision leaves about 1e-5


class MaskedSpansConfig(Config):
    """Settings of masked spans."""

    tolerance: float = Field(
        default=5e-4, gt=0, lt=1, description="an input counts as read if less than this share of it is outside a span"
    )
    deviations: float = Field(
        default=5.0, gt=0, description="under noise: deviations by which a token that was read is below the others"
    )
    tries: int = Field(default=20, ge=1, description="descents in search of each sentence of a batch")


class _Filled(NamedTuple):
    """Sentences with their masked tokens (B, T), their weights in the loss (B,), and the share left unexplained."""

    tokens: Tensor
    weights: Tensor
    rest: float


@final
@attack("masked-spans", summary="texts with their masked tokens and rates, from spans and one linear system")
class MaskedSpans(Attack[MaskedSpansConfig]):
    """Reads visible tokens off spans, and masked ones off the output layer."""

    effort: ClassVar[Effort] = "search"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = MASKED

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without a mask token or two attentions, dropout in front of them, and full or hidden spans."""
        if mask_token(observation.model) is None:
            return "the model has no mask token: it does not fill in masked places"
        return has_no_spans(observation) or one_gradient_only(observation)

    @torch.no_grad()
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences that have a masked place, with -1 where a masked token is not known."""
        try:
            return self._read(observation, generator, on_step)
        except NothingFound as reason:
            return no_guess(observation, str(reason))

    def _read(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences.

        Raises:
            NothingFound: no token lies in the span at some place, or no arrangement in the second one.
        """
        mask = mask_token(observation.model)
        assert mask is not None, "checked before"
        reading, tokens = spans_with_masks(observation, self.config.tolerance, self.config.deviations)
        seen = _arranged(reading, tokens, observation.batch_size or 1, self.config.tries, generator)
        filled = _fill_in(observation, seen, mask)
        on_step(Step(0, 1, 1, filled.rest, filled.rest, filled.tokens))
        facts = {
            "rank of the first span": reading.spaces[0].size,
            "masked tokens": float((seen == mask).sum()),
            "share of the output layer's gradient left": filled.rest,
        }
        sentences = observation.batch_size or len(seen)
        for number, weight in enumerate(filled.weights.tolist(), 1):
            if weight > 0:
                facts[f"masking rate of sentence {number}"] = 1 / (sentences * seen.shape[1] * weight)
        return Reconstruction(
            inputs=filled.tokens,
            labels=torch.zeros(len(seen), dtype=torch.long),
            masks=None,
            objective=filled.rest,
            iterations=1,
            best_iteration=1,
            history=((1, filled.rest),),
            stopped="read off two spans and the output layer",
            notes=("rates are those of texts all of whose places may be masked",),
            facts=facts,
            is_exact=filled.rest < _EXPLAINED,
        )


def _arranged(reading: Reading, tokens: Sequence[Tensor], most: int, tries: int, generator: torch.Generator) -> Tensor:
    """Return sentences (B, T) whose inputs lie in the second span, at most so many.

    Where there are few arrangements of the tokens at their places, all are tried.

    Raises:
        NothingFound: there is none.
    """
    if math.prod(map(len, tokens)) <= _FEW:
        every = torch.cartesian_prod(*tokens).view(-1, len(tokens))
        scores = reading.whole(every, len(tokens))
        inside = reading.test.tokens(scores)
        found = list(every[inside][scores[inside].argsort()][:most])
    else:
        found = _sought(reading, tokens, most, tries, generator)
    if found:
        return torch.stack(found)
    raise NothingFound("no arrangement of the tokens at their places that was tried lies in the second span")


def _sought(
    reading: Reading, tokens: Sequence[Tensor], most: int, tries: int, generator: torch.Generator
) -> list[Tensor]:
    """Return sentences (T,): those of aligned tokens, then ends of descents from these, then of random descents."""
    most = min(most, max(1, round(reading.spaces[1].size / len(tokens))))  # those without a masked place add no rank
    found: list[Tensor] = []
    for _ in range(_CONTEXTS):
        if len(found) >= most:
            break
        starts = _aligned(reading, tokens, generator)
        inside = reading.test.tokens(reading.whole(starts, len(tokens)))
        _add(found, starts[inside])
        for start in starts[~inside][:_STARTS]:
            if len(found) >= most:
                break
            end = _descended(reading, tokens, start)
            _add(found, end[None][reading.test.tokens(reading.whole(end[None], len(tokens)))])
    for _ in range(most - len(found)):
        end = _searched(reading, tokens, found, tries, generator)
        if end is None:
            break
        found.append(end)
    return found[:most]


def _add(found: list[Tensor], sentences: Tensor) -> None:
    """Add sentences (N, T) that were not found yet."""
    for own in sentences:
        if not any(torch.equal(own, other) for other in found):
            found.append(own)


def _aligned(reading: Reading, tokens: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Return arrangements (N, T) of tokens that lie outside the second span in one direction, the nearest first.

    Near even attention, the input at a place is that of its token, x, and what its text gives to all places, u; x + u
    lies in the span. So in any text, x lies outside by what that text gives less u: one direction for each true text.
    """
    fewest = min(range(len(tokens)), key=lambda place: len(tokens[place]))
    context = _drawn(tokens, generator)
    rests = [_rests(reading, context, place, own) for place, own in enumerate(tokens)]
    starts = {tuple(own): near for own, near in (_along(rests, tokens, first) for first in rests[fewest])}
    return torch.tensor(sorted(starts, key=starts.__getitem__, reverse=True))


def _along(rests: Sequence[Tensor], tokens: Sequence[Tensor], direction: Tensor) -> tuple[list[int], float]:
    """Return the token at each place whose rest is nearest to a direction, then to their mean; and how near."""
    chosen, total = list[int](), direction
    for _ in range(_ROUNDS):
        chosen = [int((own @ total).argmax()) for own in rests]
        total = torch.stack([own[one] for own, one in zip(rests, chosen, strict=True)]).sum(0)
    return [int(own[one]) for own, one in zip(tokens, chosen, strict=True)], float(total.norm())


def _rests(reading: Reading, context: Tensor, place: int, tokens: Tensor) -> Tensor:
    """Return where the inputs of tokens (M,) at a place of a text lie outside the second span, unit vectors (M, d)."""
    texts = context.repeat(len(tokens), 1)
    texts[:, place] = tokens
    (inputs, *_) = reading.front.read_all(texts)
    return F.normalize(inputs[:, place].double() @ reading.spaces[1].outside, dim=-1)


def _is_inside(reading: Reading, sentence: Tensor) -> bool:
    return bool(reading.test.tokens(reading.whole(sentence[None], len(sentence))))


def _searched(
    reading: Reading, tokens: Sequence[Tensor], known: Sequence[Tensor], tries: int, generator: torch.Generator
) -> Tensor | None:
    """Return a sentence (T,) in the second span that is not known, or None.

    A random arrangement descends; then a third of its tokens are drawn again and it descends, and stays where that is
    nearer. Every few tries a new one begins, of tokens that no known sentence has, where there are some.
    """
    fresh = [
        own[[int(token) not in taken for token in own]]
        for own, taken in zip(tokens, _taken(known, tokens), strict=True)
    ]
    fresh = [new if len(new) else own for new, own in zip(fresh, tokens, strict=True)]
    best, least = torch.empty(0), float("inf")
    for number in range(tries):
        if number % _TRIES_A_START == 0:
            best, least = _drawn(fresh, generator), float("inf")
        again = torch.rand(len(tokens), generator=generator) < (number % _TRIES_A_START > 0) / 3
        end = _descended(reading, tokens, torch.where(again, _drawn(tokens, generator), best))
        if any(torch.equal(end, own) for own in known):
            continue
        if (distance := float(_distances(reading, end[None]))) < least:
            best, least = end, distance
        if _is_inside(reading, end):
            return end
    return None


def _taken(known: Sequence[Tensor], tokens: Sequence[Tensor]) -> list[set[int]]:
    """Return the tokens of known sentences at each place."""
    return [{int(own[place]) for own in known} for place in range(len(tokens))]


def _drawn(tokens: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Draw a token at each place, (T,)."""
    return torch.stack([own[torch.randint(len(own), (), generator=generator)] for own in tokens])


def _descended(reading: Reading, tokens: Sequence[Tensor], sentence: Tensor) -> Tensor:
    """Change a sentence until no other token at a place, and no exchange of two places, brings it nearer to the span.

    Under even attention an order of the same tokens gives all places the same, so exchanges matter.
    """
    while True:
        before = sentence
        for place, own in enumerate(tokens):
            if len(own) > 1:
                others = sentence.repeat(len(own), 1)
                others[:, place] = own
                sentence = others[_distances(reading, others).argmin()]
        sentence = _exchanged(reading, tokens, sentence)
        if torch.equal(sentence, before):
            return sentence


def _exchanged(reading: Reading, tokens: Sequence[Tensor], sentence: Tensor) -> Tensor:
    """Exchange the tokens of two places, the best pair each time, while that brings the sentence nearer to the span."""
    allowed = [set(own.tolist()) for own in tokens]
    while True:
        own = sentence.tolist()
        others = [sentence]
        for one, other in combinations(range(len(own)), 2):
            if own[one] != own[other] and own[other] in allowed[one] and own[one] in allowed[other]:
                order = list(range(len(own)))
                order[one], order[other] = other, one
                others.append(sentence[order])
        best = int(_distances(reading, torch.stack(others)).argmin())
        if best == 0:
            return sentence
        sentence = others[best]


def _distances(reading: Reading, sentences: Tensor) -> Tensor:
    """Return the mean distance of each sentence's inputs from the second span, (N,)."""
    (inputs, *_) = reading.front.read_all(sentences)
    return reading.spaces[1].distance(inputs).double().mean(-1)


def _fill_in(observation: Observation, seen: Tensor, mask: int) -> _Filled:
    """Solve the output layer's gradient for the tokens at masked places; they stay -1 where it does not determine them.

    Args:
        observation: one gradient.
        seen: what the model read, (B, T), the mask token at masked places.
        mask: that token.
    """
    masked, none = seen == mask, torch.zeros(len(seen), dtype=torch.double)
    layer = output_layer(observation.model, observation.spec.classes)
    gradient = observation.update.tensors.get(f"{layer[0]}.weight") if layer is not None else None
    if layer is None or gradient is None or int(masked.sum()) > layer[1].in_features:
        return _Filled(seen.masked_fill(masked, -1), none, 1.0)
    with layer_inputs(observation.model, [layer[0]]) as read:
        odds = observation.model(seen)[masked].double().softmax(-1)
    hidden = read[0][1][masked].double()
    target = gradient.double() / gradient_weight(observation)
    parts = torch.linalg.lstsq(hidden.T, target.T).solution  # (places, V): w_i (softmax_i - one-hot)
    tokens = parts.argmin(1)
    at = torch.arange(len(tokens))
    weights = -parts[at, tokens] / (1 - odds[at, tokens]).clamp_min(torch.finfo(torch.double).tiny)
    odds[at, tokens] -= 1
    rest = round(float((target - (weights[:, None] * odds).T @ hidden).norm() / target.norm()), _DECIMALS)
    filled = seen.clone()
    filled[masked] = tokens
    rows = masked.nonzero()[:, 0]
    total = none.index_add(0, rows, weights)
    return _Filled(filled, total / masked.sum(1).clamp_min(1), rest)
