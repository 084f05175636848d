"""greedy: write the likeliest next token, until the text ends.

Idea: no randomness, so the text shows what the model finds likeliest behind a prompt.
Equation: v = argmax_v z_v of the model's scores z; of equal scores, the token numbered first.
Assumes: a causal language model; prompts of at least one token.
Leaks: what a model knows by heart; the trace shows the length of the text alone.
Fails: scores that are no finite numbers end the row with a reason.
Source: textbook method.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import nn

from fedsim.core.hooks import Condition, Decoder, GenerationContext, Writing
from fedsim.core.registry import component
from fedsim.core.types import Config, Event


class GreedyConfig(Config):
    """No settings."""


@final
@component("greedy", summary="decoder: the likeliest next token")
class Greedy(Decoder[GreedyConfig, Writing]):
    """Writes one token a step, and draws nothing."""

    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Writing:
        """Return the prompts."""
        return Writing(condition.prompts)

    def step(self, model: nn.Module, state: Writing, context: GenerationContext) -> tuple[Writing, list[Event]]:
        """Write the likeliest token behind each row."""
        chosen = self.next_scores(model, state).argmax(-1, keepdim=True).tolist()
        return state.extended(chosen), [Event(rows=1)] * len(state)
