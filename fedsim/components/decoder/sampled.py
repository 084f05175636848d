"""sampled: draw the next token from the softmax, with a temperature and from the likeliest tokens alone (top-p).

Idea: a temperature T below 1 sharpens the distribution; the tail outside the nucleus S is never drawn.
Equation: Pr(v) = softmax(z / T)_v / sum_{u in S} softmax(z / T)_u for v in S, else 0; S is the smallest set of
    likeliest tokens that holds a share p of the probability.
Assumes: a causal language model; prompts of at least one token.
Leaks: what a model knows by heart, in some of many draws; the trace shows the length of the text alone.
Fails: scores that are no finite numbers end the row with a reason.
Source: Holtzman, Buys, Du, Forbes, Choi 2020, arXiv 1904.09751, section 3.1.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.components.decoder._drawing import draw, nucleus
from fedsim.core.hooks import Condition, Decoder, GenerationContext, Writing
from fedsim.core.registry import component
from fedsim.core.types import Config, Event


class SampledConfig(Config):
    """Settings of sampling."""

    temperature: float = Field(default=1.0, gt=0, description="T; decoder 'greedy' is its limit at 0")
    top_p: float = Field(default=1.0, gt=0, le=1, description="share p of the probability that the set holds")


@final
@component(
    "sampled",
    summary="decoder: draws from the softmax, with temperature and top-p",
    paper="1904.09751",
    fidelity="reproduction",
)
class Sampled(Decoder[SampledConfig, Writing]):
    """Writes one token a step, with one draw for each."""

    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Writing:
        """Return the prompts."""
        return Writing(condition.prompts)

    def step(self, model: nn.Module, state: Writing, context: GenerationContext) -> tuple[Writing, list[Event]]:
        """Draw a token behind each row."""
        scores = self.next_scores(model, state).double() / self.config.temperature
        chosen = draw(nucleus(scores.softmax(-1), self.config.top_p), context.generators)
        return state.extended([[token] for token in chosen]), [Event(rows=1)] * len(state)
