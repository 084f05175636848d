"""lora-drop: skips some blocks except at every c-th step; their last output plus a low-rank adapter replaces them.

Idea: a block's output changes little between tokens. A fixed period, equal for all texts, determines when it runs
    again.
Equation: out = C_l + D_l(x) for dropped blocks l, C_l their output at the last anchor, or at the previous token
    (reuse), D_l(x) = (alpha / r) B A x; generated token g is an anchor if (g + 1) mod c = 0; the prompt's last token is
    the first.
Assumes: a model with individually callable layers; adapters by component `lora-drop-adapters`, else D_l = 0.
Leaks: layers per step depend on the step number alone, so work shows only the length of a text.
Fails: with long cycles, most blocks dropped, or no adapters; the text differs from the model's own.
Source: Rajabzadeh et al. 2026, arXiv 2601.02569; dropped blocks cache no keys, anchors keep their true positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.drop_adapter import (
    DropAdapter,
    LoraDropAdaptersConfig,
    Reuse,
    adapters_of,
    check_blocks,
    every_second,
    read_adapters,
)
from fedsim.components.decoder._drawing import draw
from fedsim.components.decoder._odds import DrawConfig
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, TextState, check_scores
from fedsim.core.nets.kv_cache import DecodingCache, LayerStack, stack_of
from fedsim.core.registry import component
from fedsim.core.types import Event

_CYCLE = 4


class LoraDropConfig(DrawConfig):
    """Settings of the schedule and of sampling."""

    blocks: tuple[int, ...] | None = Field(
        default=None,
        description="blocks to drop; unset: the blocks with adapters, else every second, not the last",
    )
    cycle: int | None = Field(default=None, ge=1, description="c; absent: that of the model's adapters, else 4")
    reuse: Reuse | None = Field(
        default=None, description="as the adapters': C is of the last anchor, or of the token before; absent: theirs"
    )
    adapters: Path | None = Field(default=None, description="file of trained adapters; absent: the model's, if any")
    alpha: float = Field(default=16.0, gt=0, description="numerator of the scale of adapters from a file")


@dataclass(frozen=True)
class LayerClock:
    """Schedule of a model's blocks and the substitutes of skipped blocks; the same for all rows."""

    model: nn.Module
    stack: LayerStack
    dropped_blocks: tuple[int, ...]
    cycle: int
    reuse: Reuse
    adapters: Mapping[int, DropAdapter]

    def keep(self, places: Sequence[int]) -> LayerClock:
        """Return this object, which is the same for all rows."""
        return self

    def layers(self, written: int) -> int:
        """Return how many layers run on the newest of `written` generated tokens; all of them on a prompt (0)."""
        return self.stack.depth - (len(self.dropped_blocks) if written % self.cycle else 0)

    def read(self, state: Dropping) -> tuple[Tensor, Mapping[int, Tensor]]:
        """Return the next-token scores (B, V) of the rows, and the updated outputs that replace dropped blocks.

        Tokens that are not yet cached are processed: first the prompts, then token by token.
        """
        cache, texts, written = state.past, state.tokens, len(state.tokens[0]) - state.prompts[0]
        is_read = cache.lengths and all(
            length >= len(text) - 1 for length, text in zip(cache.lengths, texts, strict=True)
        )
        anchors, hidden = state.anchors, torch.empty(0)
        for number in range(written if is_read else 0, written + 1):
            shown = [text[: prompt + number] for text, prompt in zip(texts, state.prompts, strict=True)]
            if number % self.cycle and self.dropped_blocks:
                hidden, after = self._lean(cache, shown, anchors)
                anchors = after if self.reuse == "previous" else anchors
            else:
                hidden, anchors = self._refresh(cache, shown)
        return self.stack.score(hidden), anchors

    def _refresh(self, cache: DecodingCache, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Mapping[int, Tensor]]:
        """Run all layers; return the outputs of the last and of each dropped layer at each row's last token."""
        seen: dict[int, Tensor] = {}

        def note(number: int, hidden: Tensor) -> None:
            if number in self.dropped_blocks:
                seen[number] = hidden

        hidden, counts = cache.states(self.model, texts, seen=note)
        rows, last = torch.arange(len(counts)), torch.tensor(counts) - 1
        return hidden[rows, last], {number: states[rows, last] for number, states in seen.items()}

    def _lean(
        self, cache: DecodingCache, texts: Sequence[Sequence[int]], anchors: Mapping[int, Tensor]
    ) -> tuple[Tensor, Mapping[int, Tensor]]:
        """Run the layers that are not dropped on the newest token of each row.

        Returns:
            The last layer's output, and the outputs that replaced the dropped layers.
        """
        stood: dict[int, Tensor] = {}
        first, *later_parts = self._parts()
        hidden, _counts = cache.states(self.model, texts, layers=first)
        for part in later_parts:
            if part[0] not in self.dropped_blocks:
                hidden = cache.deepen(hidden, part)
                continue
            for number in part:
                anchor = anchors[number][:, None]
                hidden = anchor + self.adapters[number](hidden) if number in self.adapters else anchor
                stood[number] = hidden[:, 0]
        return hidden[:, 0], stood

    def _parts(self) -> Iterator[tuple[int, ...]]:
        """Yield consecutive layers in groups that are all run or all dropped; the first group runs."""
        for _, part in groupby(range(self.stack.depth), lambda number: number in self.dropped_blocks):
            yield tuple(part)


@dataclass(frozen=True)
class Dropping(TextState):
    """Texts, their prompt lengths, and the outputs (B, d) that replace dropped blocks, by block index."""

    prompts: tuple[int, ...]
    anchors: Mapping[int, Tensor]
    clock: LayerClock


@final
@component(
    "lora-drop",
    summary="decoder: adapters replace blocks between anchor tokens",
    tier="research",
    paper="2601.02569",
    fidelity="variant",
    deviates="which keys are kept, and at which places, is chosen here",
    paper_steps=(
        ("adapters replace dropped blocks between anchors", "LayerClock.read"),
        ("keys of the prompt and of anchors alone", "LayerClock.layers"),
        ("the clock of anchors", "LoraDrop.step"),
    ),
)
class LoraDrop(Decoder[LoraDropConfig, Dropping]):
    """Generates a token per step, with the same schedule for all rows."""

    counts: ClassVar[frozenset[str]] = frozenset({"layers"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Dropping:
        """Return the prompts.

        Raises:
            FedsimError: the model's layers are unknown, or the settings contradict them or the adapters.
        """
        stack = stack_of(model)
        if stack is None:
            raise FedsimError(
                "decoder 'lora-drop' runs single layers, and fedsim cannot find the layers of this model. "
                "Use model 'tiny-llama', or a Llama-style checkpoint without token reducers."
            )
        lengths = tuple(len(prompt) for prompt in condition.prompts)
        return Dropping(condition.prompts, lengths, {}, self._clock(model, stack))

    def step(self, model: nn.Module, state: Dropping, context: GenerationContext) -> tuple[Dropping, list[Event]]:
        """Run this step's layers on the newest token of each row, and append a token."""
        scores, anchors = state.clock.read(state)
        check_scores(list(scores[:, None]))
        chosen = draw(self.config.odds(scores), context.generators)
        layers = state.clock.layers(len(state.tokens[0]) - state.prompts[0])
        after = replace(state.append_tokens([[token] for token in chosen]), anchors=anchors)
        return after, [Event(layers=layers)] * len(state)

    def _clock(self, model: nn.Module, stack: LayerStack) -> LayerClock:
        adapters, blocks = adapters_of(model), self.config.blocks
        cycle, reuse = self.config.cycle, self.config.reuse
        if adapters and self.config.adapters is not None:
            raise FedsimError("the model has adapters of its own. Leave out adapters.")
        if self.config.adapters is not None:
            settings = LoraDropAdaptersConfig(cycle=cycle or _CYCLE, reuse=reuse or "anchor", alpha=self.config.alpha)
            width = stack.embed(torch.tensor([[0]])).shape[-1]
            adapters = read_adapters(self.config.adapters, settings, width)
        chosen = every_second(stack.depth) if blocks is None else tuple(sorted(set(blocks)))
        if adapters:
            chosen, first = tuple(sorted(adapters)), next(iter(adapters.values()))
            is_other = cycle not in (None, first.cycle) or reuse not in (None, first.reuse)
            if is_other or (blocks is not None and set(blocks) != set(adapters)):
                raise FedsimError(
                    f"the adapters are for blocks = {list(chosen)}, cycle = {first.cycle} and reuse = '{first.reuse}'. "
                    "Leave out all three."
                )
            cycle, reuse = first.cycle, first.reuse
        wrong = check_blocks(chosen, stack.depth)
        if wrong is not None:
            raise FedsimError(f"blocks = {list(chosen)}, {wrong}.")
        return LayerClock(model, stack, chosen, cycle or _CYCLE, reuse or "anchor", adapters)
