"""dynamic-exit: early layers draft, all layers verify; running counts determine the exit layer and the draft length.

Idea: each layer's own prediction at verified positions estimates how often it agrees with the whole model.
Equation: alpha_l = m_l / (m_l + f_l), decayed counts of matches and mismatches; exit l and length g of the next draft
    maximise (sum_{j=0..g} alpha_l^j) / (L + g l). A draft ends early if the probability of its token is below tau_l,
    the mean of the average confidence of matches and that of mismatches.
Assumes: a model with individually callable layers; early layers trained to predict.
Leaks: exit, tokens and layers per step depend on how predictable the text is.
Fails: with early layers not trained to exit, or a vocabulary so large that scoring all exits outweighs the savings.
Source: Entezari Zarch, Gao, Jiang, Annavaram 2025, arXiv 2504.05598; at g = 0, where its code drafts, a plain step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.decoder._drafting import DraftedTexts
from fedsim.components.decoder._odds import finite
from fedsim.components.decoder._shortlist import DraftConfig, score_drafts, score_listed
from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, check_scores
from fedsim.core.nets.kv_cache import DecodingCache, LayerStack, stack_of
from fedsim.core.registry import component
from fedsim.core.types import Event

_PROMPT = 32  # last prompt tokens at which layers are compared


class DelConfig(DraftConfig):
    """Settings of exits and drafts."""

    exits: tuple[int, ...] = Field(default=(), description="numbers of layers that may draft; none named: all but all")
    longest: int = Field(default=18, ge=1, description="tokens of a draft, below this many by choice, at most so many")
    decay: float = Field(default=0.95, gt=0, le=1, description="omega, factor on a count after each round")
    dynamic: bool = Field(default=True, description="whether a draft may end early, and last beyond the chosen length")
    scoring: float = Field(default=0.0, ge=0, description="cost of scoring a drafted token, in layers; 0 as published")


@dataclass(frozen=True)
class Agreement:
    """Statistics of an exit: decayed counts of matches and mismatches with the whole model, and summed confidences."""

    matches: float = 0.0
    misses: float = 0.0
    sure_matches: float = 0.0
    sure_misses: float = 0.0

    @property
    def rate(self) -> float:
        """Share of matches; -inf without observations."""
        known = self.matches + self.misses
        return self.matches / known if known else -math.inf

    @property
    def threshold(self) -> float:
        """Confidence below which a draft ends; 0 if either average confidence is unknown."""
        if not self.matches or not self.misses:
            return 0.0
        return (self.sure_matches / self.matches + self.sure_misses / self.misses) / 2

    def update_statistics(self, decay: float, matches: Tensor, confidence: Tensor) -> Agreement:
        """Return the statistics after a round.

        Args:
            decay: factor of the old counts.
            matches: whether the exit agreed with the model, shape (n,).
            confidence: the exit's probability of its prediction, shape (n,).
        """
        agreed: list[bool] = matches.tolist()
        sure: list[float] = confidence.tolist()
        count, all_of = sum(agreed), sum(sure)
        sure_matches = sum(chance for chance, is_match in zip(sure, agreed, strict=True) if is_match)
        return Agreement(
            decay * self.matches + count,
            decay * self.misses + len(agreed) - count,
            decay * self.sure_matches + sure_matches,
            decay * self.sure_misses + all_of - sure_matches,
        )


def tokens_per_layer(rate: float, depth: float, layers: float, length: int) -> float:
    """Return the expected number of tokens per layer that a round runs.

    Args:
        rate: acceptance rate of the exit.
        depth: number of layers of the model, L.
        layers: number of drafting layers, l, including the cost of scoring.
        length: number of draft tokens, g.
    """
    expected = length + 1 if rate == 1 else (1 - rate ** (length + 1)) / (1 - rate)
    return expected / (depth + length * layers)


def choose(known: Mapping[int, Agreement], depth: int, longest: int, scoring: float = 0.0) -> tuple[int, int]:
    """Return exit and length with the most expected tokens per layer; ties go to the smallest."""
    best, highest_gain = (min(known), 0), -math.inf
    for layers in sorted(known):
        rate = known[layers].rate
        for length in range(longest) if rate >= 0 else ():
            gain = tokens_per_layer(rate, depth, layers + scoring, length)
            if gain > highest_gain:
                best, highest_gain = (layers, length), gain
    return best


@dataclass(frozen=True)
class ExitChoices:
    """Exit statistics of a text, and the choice for the next round."""

    agreements: Mapping[int, Agreement]
    layers: int
    length: int = 1
    is_first: bool = True
    past: DecodingCache = field(default_factory=DecodingCache)


@dataclass(frozen=True)
class Exiting(DraftedTexts):
    """Texts, and the exit statistics of each."""

    exits: tuple[ExitChoices, ...]


@final
@component(
    "dynamic-exit",
    aliases=("del",),
    summary="decoder: the first layers draft, exit and length by running counts; exact",
    tier="research",
    paper="2504.05598",
    fidelity="variant",
    deviates="draft length 0 is a plain step; no statistics of tokens after the first mismatch",
    paper_steps=(
        ("decayed counts of agreement by layer", "Agreement.update_statistics"),
        ("exit and length of the largest expected tokens per layer", "choose"),
        ("a draft ends where it is unsure", "_Round._is_unsure"),
    ),
)
class Del(Decoder[DelConfig, Exiting]):
    """Generates the accepted draft tokens and one more per round. Rows are processed in sequence.

    Count `layers` includes drafting, verification, and the prompt except its last 32 tokens.
    """

    counts: ClassVar[frozenset[str]] = frozenset({"proposed", "accepted", "layers", "scored", "exit"})
    exact: ClassVar[bool] = True

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Exiting:
        """Return the prompts with empty exit statistics.

        Raises:
            FedsimError: the model's layers are unknown, or it has no such exits.
        """
        depth = _stack(model).depth
        exits = self.config.exits or tuple(range(1, depth))
        if not exits or min(exits) < 1 or max(exits) >= depth:
            raise FedsimError(
                f"exits = {list(self.config.exits)}, expected numbers of layers from 1 to {depth - 1}: the model has "
                f"{depth}, and fewer of them must draft."
            )
        known = {layer: Agreement() for layer in sorted(exits)}
        begins = tuple(map(len, condition.prompts))
        return Exiting(condition.prompts, begins, tuple(ExitChoices(known, min(exits)) for _ in condition.prompts))

    def step(self, model: nn.Module, state: Exiting, context: GenerationContext) -> tuple[Exiting, list[Event]]:
        """Run a round per row.

        Raises:
            GenerationError: scores of a row are not finite.
        """
        exits: list[ExitChoices] = []
        new: list[list[int]] = []
        events: list[Event] = []
        for row, (text, text_exits, generator) in enumerate(
            zip(state.tokens, state.exits, context.generators, strict=True)
        ):
            room = state.room(row, context, self.config.longest)
            turn = _Round(self.config, model, text, text_exits, context, generator, room)
            try:
                new.append(turn.write())
            except GenerationError as error:
                raise GenerationError(str(error), [row]) from None
            exits.append(turn.learn(len(new[-1])))
            events.append(
                Event(
                    proposed=len(turn.drafted),
                    accepted=len(new[-1]) - 1,
                    layers=turn.layers,
                    scored=turn.scored,
                    exit=text_exits.layers,
                )
            )
        return replace(state.append_tokens(new), exits=tuple(exits)), events


class _Round:
    """A round of a row: draft, verify, update the statistics."""

    def __init__(
        self,
        config: DelConfig,
        model: nn.Module,
        text: tuple[int, ...],
        exits: ExitChoices,
        context: GenerationContext,
        generator: torch.Generator,
        room: int,
    ) -> None:
        self.drafted: list[int] = []
        self.layers = self.scored = 0
        self._config, self._model, self._stack = config, model, _stack(model)
        self._text, self._exits, self._generator = text, exits, generator
        self._stops = context.limits.stop_tokens if context.limits is not None else frozenset[int]()
        wanted = config.longest if config.dynamic else exits.length
        wanted = 1 if exits.is_first else wanted if exits.length else 0
        self._most = min(wanted, room)
        self._states: dict[int, list[Tensor]] = {layer: [] for layer in exits.agreements}
        self._odds: list[Tensor | None] = []
        self._full = torch.empty(0)

    def write(self) -> list[int]:
        """Return the tokens of the round."""
        cache, layers = self._exits.past, range(self._exits.layers)
        if self._exits.is_first and len(self._text) > _PROMPT:
            cache.scores(self._model, [self._text[:-_PROMPT]])
            self.layers, self.scored = self._stack.depth, 1
        seen = self._make_recorder()
        hidden = [cache.states(self._model, [self._text], layers=layers, seen=seen)[0]]
        while len(self.drafted) < self._most and self._draft(hidden[-1][0, -1:]):
            hidden.append(cache.states(self._model, [(*self._text, *self.drafted)], layers=layers, seen=seen)[0])
        deep = cache.deepen(torch.cat(hidden, 1), range(len(layers), self._stack.depth), seen)
        self._full = self._stack.score(deep[0])
        self.layers += len(self.drafted) * len(layers) + self._stack.depth
        self.scored += len(self._full)
        target = self._full[-1 - len(self.drafted) :]
        check_scores([target])
        usable = finite(target)
        return self._config.stands(self.drafted[: len(usable) - 1], self._odds, usable, self._generator)

    def learn(self, written: int) -> ExitChoices:
        """Update the statistics with each exit's predictions at all positions whose preceding text was accepted."""
        count = len(self._full) - len(self.drafted) - 1 + written
        said = self._full[:count].argmax(-1)
        states = torch.cat([torch.cat(state)[:count] for state in self._states.values()])
        self.scored += len(states)
        scores, listed, _ = score_listed(self._stack, states, self._known_tokens, self._config.shortlist)
        scores = scores.double()
        best, tokens = scores.max(-1)
        tokens = tokens if listed is None else listed[tokens]
        confidence = (best - scores.logsumexp(-1)).exp().split(count)
        agrees = [token == said for token in tokens.split(count)]
        decay, before = self._config.decay, self._exits.agreements
        known = {
            layers: before[layers].update_statistics(decay, *figures)
            for layers, figures in zip(self._states, zip(agrees, confidence, strict=True), strict=True)
        }
        layers, length = choose(known, self._stack.depth, self._config.longest, self._config.scoring)
        return replace(self._exits, agreements=known, layers=layers, length=length, is_first=False)

    @property
    def _known_tokens(self) -> tuple[int, ...]:
        return (*self._text, *self.drafted)

    def _draft(self, hidden: Tensor) -> bool:
        """Draft a token and return whether drafting succeeded; an unconfident token is the last of the draft."""
        scores = score_drafts(self._stack, hidden, self._known_tokens, self._config.shortlist)[0]
        self.scored += 1
        if not scores.amax().isfinite():
            return False
        token, odds = self._config.draw(scores, self._generator)
        self._odds.append(odds)
        self.drafted.append(token)
        if token in self._stops or self._is_unsure(scores, token):
            self._most = len(self.drafted)
        return True

    def _is_unsure(self, scores: Tensor, token: int) -> bool:
        threshold = self._exits.agreements[self._exits.layers].threshold
        if not self._config.dynamic or self._exits.is_first or not threshold:
            return False
        return float((scores[token] - scores.double().logsumexp(-1)).exp()) < threshold

    def _make_recorder(self) -> Callable[[int, Tensor], None]:
        def note(number: int, hidden: Tensor) -> None:
            if number + 1 in self._states:
                self._states[number + 1].append(hidden[0])

        return note


def _stack(model: nn.Module) -> LayerStack:
    stack = stack_of(model)
    if stack is None:
        raise FedsimError(
            "decoder 'dynamic-exit' runs single layers, and fedsim cannot find the layers of this model. "
            "Use model 'tiny-llama', or a Llama-style checkpoint without token reducers."
        )
    return stack
