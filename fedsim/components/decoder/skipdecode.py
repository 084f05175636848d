"""skipdecode: the later a token, the fewer layers run on it, by one schedule for all texts; the top layers stay.

Idea: later tokens need less. Layers near the bottom are jumped over, so that late tokens still meet, in the top layers,
    what earlier ones left there; sets of layers are nested, so a layer that runs has the keys of all tokens before.
Equation: on written token g of E expected run n(g) = floor((1 - r) n_first + r n_last + 1/2) of the layers, where
    r = min(1, g / (E - 1)): the w lowest and the n(g) - w highest; on a prompt all.
Assumes: a model trained under the schedule (component `skipdecode-training`), whose layers can be run one by one.
Leaks: layers and time of a step follow its number alone, so work shows the length of a text and no more.
Fails: a model that was not trained so; texts much shorter than E save less, longer ones get worse.
Source: Del Corro, Del Giorno, Agarwal, Yu, Awadallah, Mukherjee 2023, arXiv 2307.02628; E counts written tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.decoder._drawing import draw
from fedsim.components.decoder._odds import DrawConfig
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Condition, Decoder, GenerationContext, Writing, check_scores
from fedsim.core.past import Past, stack_of
from fedsim.core.registry import component
from fedsim.core.types import Config, Event


@dataclass(frozen=True)
class Schedule:
    """Which layers run on each written token.

    Attributes:
        depth: layers of the model, L.
        first: layers on the first written token.
        last: layers on the last one expected, and on all behind it.
        warm_up: lowest layers, which always run.
        expected: written tokens, E.
    """

    depth: int
    first: int
    last: int
    warm_up: int
    expected: int

    def count(self, number: int) -> int:
        """Return how many layers run on written token `number`, from 0. Whole numbers, so that no rounding swings."""
        span = self.expected - 1
        if number >= span:
            return self.first if number == span == 0 else self.last
        doubled = 2 * ((span - number) * self.first + number * self.last)
        return (doubled + span) // (2 * span)

    def layers(self, number: int) -> tuple[int, ...]:
        """Return their numbers, from 0."""
        top = self.count(number) - self.warm_up
        return (*range(self.warm_up), *range(self.depth - top, self.depth))


class ScheduleConfig(Config):
    """Settings of the schedule."""

    speed_up: float = Field(default=2.0, ge=1, description="layers of the model over those that run, on average")
    first: int | None = Field(default=None, ge=1, description="layers on the first written token; absent: by speed_up")
    last: int | None = Field(default=None, ge=1, description="layers on the last expected one; absent: by speed_up")
    warm_up: int = Field(default=1, ge=0, description="lowest layers, which run on every token")
    expected: int = Field(default=32, ge=1, description="tokens that a text is expected to get behind its prompt")

    @model_validator(mode="after")
    def _both_ends(self) -> Self:
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last belong together: set both, or neither and speed_up.")
        return self

    def schedule(self, depth: int) -> Schedule:
        """Return the schedule of a model with so many layers.

        Raises:
            FedsimError: it has too few of them, or they would become more from token to token.
        """
        first, last = self.first, self.last
        if first is None or last is None:
            first, last = budgets(depth, self.speed_up, self.warm_up)
        if not self.warm_up < last <= first <= depth:
            raise FedsimError(
                f"first = {first}, last = {last}, warm_up = {self.warm_up}: expected warm_up < last <= first <= "
                f"{depth}, the layers of the model."
            )
        return Schedule(depth, first, last, self.warm_up, self.expected)


def budgets(depth: int, speed_up: float, warm_up: int) -> tuple[int, int]:
    """Return the layers on the first token and on the last one, whose mean is at least `depth` / `speed_up`."""
    both = math.ceil(2 * depth / speed_up)
    last = max(warm_up + 1, math.ceil(2 * depth / (3 * speed_up)), both - depth)
    return max(last, both - last), last


class SkipDecodeConfig(DrawConfig, ScheduleConfig):
    """Settings of the schedule and of what is drawn from."""


@dataclass(frozen=True)
class Scheduled(Writing):
    """Texts, and the lengths of their prompts. All have as many tokens behind the prompt."""

    prompts: tuple[int, ...]


@final
@component("skipdecode", summary="decoder: later tokens run through fewer layers, by a schedule", paper="2307.02628")
class SkipDecode(Decoder[SkipDecodeConfig, Scheduled]):
    """Writes one token a step. A step runs the same layers for all rows."""

    counts: ClassVar[frozenset[str]] = frozenset({"accepted", "layers"})
    fast: ClassVar[Mapping[str, Any]] = {"expected": 32}

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Scheduled:
        """Return the prompts.

        Raises:
            FedsimError: the model's layers are not known, or the schedule does not fit their number.
        """
        self._schedule(model)
        return Scheduled(condition.prompts, prompts=tuple(len(own) for own in condition.prompts))

    def step(self, model: nn.Module, state: Scheduled, context: GenerationContext) -> tuple[Scheduled, list[Event]]:
        """Run the layers of this step on the newest token of each row, and write one behind it."""
        schedule = self._schedule(model)
        scores = read_by_schedule(model, state.past, state.tokens, state.prompts, schedule)
        check_scores(scores)
        chosen = draw(self.config.odds(torch.cat(scores)), context.generators)
        written = len(state.tokens[0]) - state.prompts[0]
        layers = schedule.count(written - 1) if written else schedule.depth
        return state.extended([[token] for token in chosen]), [Event(accepted=1, layers=layers)] * len(state)

    def _schedule(self, model: nn.Module) -> Schedule:
        stack = stack_of(model)
        if stack is None:
            raise FedsimError(
                "decoder 'skipdecode' runs single layers, and those of this model are not known. Use model "
                "'tiny-llama', or a checkpoint of Llama's kind without token reducers."
            )
        return self.config.schedule(stack.depth)


def read_by_schedule(
    model: nn.Module, past: Past, texts: Sequence[tuple[int, ...]], prompts: Sequence[int], schedule: Schedule
) -> list[Tensor]:
    """Return the scores (1, V) behind each text; what was not read yet is read prompt by prompt, then token by token.

    Args:
        model: what reads.
        past: what it has read by the same schedule.
        texts: with equally many tokens behind their prompts.
        prompts: lengths of these.
        schedule: which layers run on each token.
    """
    written = len(texts[0]) - prompts[0]
    is_read = past.lengths and all(own >= len(text) - 1 for own, text in zip(past.lengths, texts, strict=True))
    scores: list[Tensor] = []
    for number in range(written if is_read else 0, written + 1):
        layers = schedule.layers(number - 1) if number else None
        shown = [text[: prompt + number] for text, prompt in zip(texts, prompts, strict=True)]
        scores = past.scores(model, shown, layers=layers)
    return scores
