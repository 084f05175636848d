"""skipdecode: runs fewer layers on later tokens, by one schedule for all texts; the top layers always run.

Idea: later tokens need fewer layers. Lower layers are skipped, so late tokens still attend, in the top layers, to
    earlier tokens' keys; the sets of layers are nested, so a running layer has the keys of all earlier tokens.
Equation: on generated token g of E expected, floor((1 - r) n_first + r n_last + 1/2) = n(g) layers run, r = min(1, g /
    (E - 1)): the w lowest and the n(g) - w highest; on a prompt all.
Assumes: a model trained under the schedule (component `skipdecode-training`), with individually callable layers.
Leaks: layers and time per step depend on the step number alone, so work shows only the length of a text.
Fails: with a model not trained under the schedule; texts much shorter than E save less, longer ones lose quality.
Source: Del Corro, Del Giorno, Agarwal, Yu, Awadallah, Mukherjee 2023, arXiv 2307.02628; E counts generated tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedsim.components.core.layer_schedule import LayerSchedule, ScheduleConfig
from fedsim.components.decoder._drawing import draw
from fedsim.components.decoder._odds import DrawConfig
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, TextState, check_scores
from fedsim.core.nets.kv_cache import DecodingCache, stack_of
from fedsim.core.registry import component
from fedsim.core.types import Event


class SkipDecodeConfig(DrawConfig, ScheduleConfig):
    """Settings of the schedule and of sampling."""


@dataclass(frozen=True)
class SkippingTexts(TextState):
    """Texts and their prompt lengths. All texts have the same number of generated tokens."""

    prompts: tuple[int, ...]


@final
@component(
    "skipdecode",
    summary="decoder: later tokens run through fewer layers, by a schedule",
    tier="research",
    paper="2307.02628",
    fidelity="variant",
    deviates="paper not read: built from a reading note and later code; E counts generated tokens",
    paper_steps=(
        ("layers of each token from the schedule", "read_by_schedule"),
        ("kept keys serve later tokens", "read_by_schedule"),
    ),
)
class SkipDecode(Decoder[SkipDecodeConfig, SkippingTexts]):
    """Generates a token per step, with the same layers for all rows."""

    counts: ClassVar[frozenset[str]] = frozenset({"layers"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> SkippingTexts:
        """Return the prompts.

        Raises:
            FedsimError: the model's layers are unknown, or the schedule does not fit their number.
        """
        self._schedule(model)
        return SkippingTexts(condition.prompts, prompts=tuple(len(prompt) for prompt in condition.prompts))

    def step(
        self, model: nn.Module, state: SkippingTexts, context: GenerationContext
    ) -> tuple[SkippingTexts, list[Event]]:
        """Run this step's layers on the newest token of each row, and append a token."""
        schedule = self._schedule(model)
        scores = read_by_schedule(model, state.past, state.tokens, state.prompts, schedule)
        check_scores(scores)
        chosen = draw(self.config.odds(torch.cat(scores)), context.generators)
        written = len(state.tokens[0]) - state.prompts[0]
        layers = schedule.count(written - 1) if written else schedule.depth
        return state.append_tokens([[token] for token in chosen]), [Event(layers=layers)] * len(state)

    def _schedule(self, model: nn.Module) -> LayerSchedule:
        stack = stack_of(model)
        if stack is None:
            raise FedsimError(
                "decoder 'skipdecode' runs single layers, and fedsim cannot find the layers of this model. "
                "Use model 'tiny-llama', or a Llama-style checkpoint without token reducers."
            )
        return self.config.schedule(stack.depth)


def read_by_schedule(
    model: nn.Module,
    cache: DecodingCache,
    texts: Sequence[tuple[int, ...]],
    prompts: Sequence[int],
    schedule: LayerSchedule,
) -> list[Tensor]:
    """Return the scores (1, V) after each text; uncached tokens are processed: first prompts, then token by token.

    Args:
        model: language model.
        cache: key-value cache, filled under the same schedule.
        texts: texts with equally many generated tokens.
        prompts: prompt lengths.
        schedule: layers that run on each token.
    """
    written = len(texts[0]) - prompts[0]
    is_read = cache.lengths and all(length >= len(text) - 1 for length, text in zip(cache.lengths, texts, strict=True))
    scores: list[Tensor] = []
    for number in range(written if is_read else 0, written + 1):
        layers = schedule.layers(number - 1) if number else None
        shown = [text[: prompt + number] for text, prompt in zip(texts, prompts, strict=True)]
        scores = cache.scores(model, shown, layers=layers)
    return scores
