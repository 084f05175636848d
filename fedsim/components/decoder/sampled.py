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

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.hooks import Condition, Decoder, GenerationContext, Writing
from fedsim.core.registry import component
from fedsim.core.types import Config, Event


class SampledConfig(Config):
    """Settings of sampling."""

    temperature: float = Field(default=1.0, gt=0, description="T; decoder 'greedy' is its limit at 0")
    top_p: float = Field(default=1.0, gt=0, le=1, description="share p of the probability that the set holds")


@final
@component("sampled", summary="decoder: draws from the softmax, with temperature and top-p", paper="1904.09751")
class Sampled(Decoder[SampledConfig, Writing]):
    """Writes one token a step, with one draw for each."""

    counts: ClassVar[frozenset[str]] = frozenset({"proposed", "accepted"})

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Writing:
        """Return the prompts."""
        return Writing(condition.prompts)

    def step(self, model: nn.Module, state: Writing, context: GenerationContext) -> tuple[Writing, list[Event]]:
        """Draw a token behind each row."""
        scores = self.next_scores(model, state).double() / self.config.temperature
        chosen = _draw(_nucleus(scores.softmax(-1), self.config.top_p), context.generators)
        return state.extended([[token] for token in chosen]), [Event(proposed=1, accepted=1)] * len(state)


def _nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Return probabilities (B, V) with 0 outside the smallest set of likeliest tokens that holds a share of 1."""
    if share == 1:
        return probabilities
    ordered, places = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    is_inside = ordered.cumsum(-1) - ordered < share
    return torch.zeros_like(probabilities).scatter(-1, places, ordered * is_inside)


def _draw(probabilities: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """Return a token a row with odds (B, V), by one uniform number of the row's own generator."""
    below = probabilities.cumsum(-1)
    uniform = torch.stack([torch.rand(1, generator=own, dtype=torch.double) for own in generators]).to(below.device)
    # A uniform number is below 1, so that the product is below the last sum, unless rounding lifts it there.
    last = probabilities.shape[-1] - 1 - probabilities.flip(-1).ne(0).int().argmax(-1)
    return torch.searchsorted(below, uniform * below[:, -1:], right=True).flatten().minimum(last).tolist()
