"""beam: beam search; follows the k most likely prefixes and returns the most likely whole text.

Idea: a text whose first token is not the most likely token may be more likely as a whole; so k prefixes are extended.
Equation: score(x) = log Pr(x) / |x|^a; of all continuations of k prefixes, the k most likely open ones are kept. The
    search ends when no prefix can exceed the best whole text: bound log Pr / n^a at the maximum length n.
Assumes: a causal language model; nonempty prompts.
Leaks: a token is emitted when all prefixes agree on it, so the trace shows where the model was uncertain.
Fails: long texts of a wide beam become repetitive; scores that are not finite end the row with a reason.
Source: textbook method; length penalty: Wu et al. 2016, arXiv 1609.08144, section 7, without its constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from fedsim.core.errors import GenerationError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, TextState, check_scores
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.registry import component
from fedsim.core.types import Config, Event, Limits


class BeamConfig(Config):
    """Settings of the search."""

    width: int = Field(default=4, ge=1, description="beginnings k that are followed")
    penalty: float = Field(default=1.0, ge=0, description="a; above 0, longer texts are preferred")


@dataclass(frozen=True)
class Way:
    """A prefix or a whole text: tokens after the prompt, and their log-probability."""

    tokens: tuple[int, ...] = ()
    weight: float = 0.0


@dataclass(frozen=True)
class BeamSearch:
    """Beam search of a text: open prefixes, the best whole text, and the key-value cache of the prefixes."""

    longest: int
    ways: tuple[Way, ...] = (Way(),)
    best: Way | None = None
    written_count: int = 0
    past: DecodingCache = field(default_factory=DecodingCache)


@dataclass(frozen=True)
class Searching(TextState):
    """Texts up to the tokens that all prefixes share, and the search of each."""

    searches: tuple[BeamSearch, ...]


@final
@component("beam", summary="decoder: the likeliest of several texts that are followed at once", tier="core")
class Beam(Decoder[BeamConfig, Searching]):
    """Emits tokens that all prefixes share; a step may emit none."""

    counts: ClassVar[frozenset[str]] = frozenset({"accepted", "rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Searching:
        """Return the prompts with new searches."""
        return Searching(
            condition.prompts,
            searches=tuple(BeamSearch(_longest(len(prompt), context)) for prompt in condition.prompts),
        )

    def step(self, model: nn.Module, state: Searching, context: GenerationContext) -> tuple[Searching, list[Event]]:
        """Extend each prefix by a token.

        Raises:
            GenerationError: scores of a row's prefixes are not finite.
        """
        searches: list[BeamSearch] = []
        new: list[tuple[int, ...]] = []
        assert context.limits is not None, "who writes has limits"
        for row, (text, search) in enumerate(zip(state.tokens, state.searches, strict=True)):
            try:
                after = self._follow(model, text[: len(text) - search.written_count], search, context.limits)
            except GenerationError as error:
                raise GenerationError(str(error), [row]) from None
            sure = self._sure(after)
            new.append(sure[search.written_count :])
            searches.append(replace(after, written_count=len(sure)))
        shown = [len(earlier.ways) for earlier in state.searches]
        events = [Event(accepted=len(new_tokens), rows=count) for count, new_tokens in zip(shown, new, strict=True)]
        return replace(state.append_tokens(new), searches=tuple(searches)), events

    def _follow(self, model: nn.Module, prompt: tuple[int, ...], search: BeamSearch, limits: Limits) -> BeamSearch:
        scores = search.past.scores(model, [(*prompt, *way.tokens) for way in search.ways])
        check_scores(scores)
        weights = torch.cat(scores).double().log_softmax(-1)
        weights += torch.tensor([[way.weight] for way in search.ways], device=weights.device)
        vocabulary, k = weights.shape[1], self.config.width
        width = min(weights.numel(), k * (1 + len(limits.stop_tokens)))
        top, places = weights.flatten().sort(descending=True, stable=True)
        ways: list[Way] = []
        sources: list[int] = []
        best = search.best
        for weight, place in zip(top[:width].tolist(), places[:width].tolist(), strict=True):
            source, token = divmod(place, vocabulary)
            way = Way((*search.ways[source].tokens, token), weight)
            if token in limits.stop_tokens or len(way.tokens) == search.longest:
                best = way if best is None or self._worth(way) > self._worth(best) else best
            elif len(ways) < k and weight > -math.inf:
                ways.append(way)
                sources.append(source)
        return replace(search, ways=tuple(ways), best=best, past=search.past.keep(sources))

    def _sure(self, search: BeamSearch) -> tuple[int, ...]:
        """Return the common prefix of all candidates that can still win."""
        best = search.best
        alive = [
            way for way in search.ways if best is None or self._score_bound(way, search.longest) > self._worth(best)
        ]
        rivals = [way.tokens for way in alive] + ([best.tokens] if best is not None else [])
        return rivals[0][: _count_shared(rivals)]

    def _worth(self, way: Way) -> float:
        return way.weight / len(way.tokens) ** self.config.penalty

    def _score_bound(self, way: Way, longest: int) -> float:
        """Return the upper bound of a prefix's score, reached if all later tokens are certain."""
        return way.weight / longest**self.config.penalty


def _count_shared(texts: list[tuple[int, ...]]) -> int:
    """Return the length of the texts' common prefix."""
    differ = (place for place, tokens in enumerate(zip(*texts, strict=False)) if len(set(tokens)) > 1)
    return next(differ, min(map(len, texts)))


def _longest(length: int, context: GenerationContext) -> int:
    assert context.limits is not None, "who writes has limits"
    limit = context.limits.context
    max_length = context.limits.max_new_tokens
    return max_length if limit is None else min(max_length, limit - length)
