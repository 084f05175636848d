"""trace-delay: holds tokens back at random and sends them with the tokens of a later step.

Idea: random noise on the schedule costs less than a constant schedule.
Equation: after each step the buffer is kept with probability p, else sent; the last step sends the rest.
Assumes: a buffer; a token is sent after 1 / (1 - p) steps on average. The counts of the work stay.
Leaks: the timing of tokens, less for larger p; the length of the text.
Fails: against an attacker that observes many texts of the same prompt, or the work.
Source: random delays, in the manner of Wei et al. 2024, arXiv 2411.01076.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field

from fedsim.core.hooks import Mitigation
from fedsim.core.registry import component
from fedsim.core.types import Config, Trace


class TraceDelayConfig(Config):
    """Settings of the delay."""

    chance: float = Field(default=0.5, gt=0, lt=1, description="p, that tokens wait for the next step")


@final
@component("trace-delay", summary="mitigation: tokens wait for later steps at random", tier="core")
class TraceDelay(Mitigation[TraceDelayConfig]):
    """Keeps the buffer at random."""

    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the traces with the tokens sent per step."""
        return [Trace(self._delay_tokens(trace.tokens, generator), trace.events) for trace in traces]

    def _delay_tokens(self, tokens: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        waits = (torch.rand(len(tokens), generator=generator) < self.config.chance).tolist()
        sent: list[int] = []
        held = 0
        for step, (count, is_held) in enumerate(zip(tokens, waits, strict=True), 1):
            held += count
            if is_held and step < len(tokens):
                sent.append(0)
                continue
            sent.append(held)
            held = 0
        return tuple(sent)
