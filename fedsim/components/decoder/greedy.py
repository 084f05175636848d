"""greedy: generates the most likely next token until the text ends.

Idea: no randomness, so the text shows the model's most likely continuation of a prompt.
Equation: v = argmax_v z_v of the model's scores z; ties go to the lowest token id.
Assumes: a causal language model; nonempty prompts.
Leaks: memorised text; the trace shows only the length of the text.
Fails: scores that are not finite end the row with a reason.
Source: textbook method.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import nn

from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, TextState
from fedsim.core.registry import component
from fedsim.core.types import Config, Event


class GreedyConfig(Config):
    """No settings."""


@final
@component("greedy", summary="decoder: the likeliest next token", tier="core")
class Greedy(Decoder[GreedyConfig, TextState]):
    """Generates a token per step, without random draws."""

    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> TextState:
        """Return the prompts."""
        return TextState(condition.prompts)

    def step(self, model: nn.Module, state: TextState, context: GenerationContext) -> tuple[TextState, list[Event]]:
        """Append the most likely token to each row."""
        chosen = self.next_scores(model, state).argmax(-1, keepdim=True).tolist()
        return state.append_tokens(chosen), [Event(rows=1)] * len(state)
