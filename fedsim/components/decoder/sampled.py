"""sampled: samples the next token from the softmax, with a temperature and top-p (nucleus) truncation.

Idea: a temperature T below 1 sharpens the distribution; tokens outside the nucleus S are never sampled.
Equation: Pr(v) = softmax(z / T)_v / sum_{u in S} softmax(z / T)_u for v in S, else 0; S is the smallest set of most
    likely tokens with total probability of at least p.
Assumes: a causal language model; nonempty prompts.
Leaks: memorised text, in some of many samples; the trace shows only the length of the text.
Fails: scores that are not finite end the row with a reason.
Source: Holtzman, Buys, Du, Forbes, Choi 2020, arXiv 1904.09751, section 3.1.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.components.decoder._drawing import draw, nucleus
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, TextState
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
    tier="core",
    paper="1904.09751",
    fidelity="reproduction",
    paper_steps=(("nucleus of the most likely tokens", "fedsim.components.decoder._drawing.nucleus"),),
)
class Sampled(Decoder[SampledConfig, TextState]):
    """Generates a token per step, with a random draw each."""

    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> TextState:
        """Return the prompts."""
        return TextState(condition.prompts)

    def step(self, model: nn.Module, state: TextState, context: GenerationContext) -> tuple[TextState, list[Event]]:
        """Sample a token for each row."""
        scores = self.next_scores(model, state).double() / self.config.temperature
        chosen = draw(nucleus(scores.softmax(-1), self.config.top_p), context.generators)
        return state.append_tokens([[token] for token in chosen]), [Event(rows=1)] * len(state)
