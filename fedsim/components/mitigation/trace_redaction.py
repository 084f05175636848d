"""trace-redaction: tell others less of what a step counted: named counts in coarse classes, or not at all.

Idea: who learns counts from the server alone, as from bills or logs, needs few of them, and none exactly.
Equation: c'_t = size floor(c_t / size) of each named count c; 0 without a size. Packets stay, and so do other counts.
Assumes: that the server is the only source: a neighbour on the machine sees the work itself, which stays what it was.
Leaks: the class of each count; how many steps there were; what counts that are not named tell of those that are.
Fails: a count left out of the list that goes with a hidden one: rejections are calls less what was accepted.
Source: generalisation and suppression, Samarati and Sweeney 1998, here for traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field

from fedsim.core.hooks import Mitigation
from fedsim.core.registry import component
from fedsim.core.types import Config, Event, Trace


class TraceRedactionConfig(Config):
    """Settings of the redaction."""

    counts: tuple[str, ...] = Field(default=(), description="names of the counts, as 'rejected'; empty: all")
    size: int | None = Field(default=None, ge=2, description="width of a class; absent: nothing of them is told")


@final
@component("trace-redaction", summary="mitigation: named counts are told in coarse classes, or not at all")
class TraceRedaction(Mitigation[TraceRedactionConfig]):
    """Rounds counts down."""

    def veil(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the traces with what is told of their counts."""
        return [Trace(trace.tokens, tuple(map(self._redacted, trace.events)), trace.places) for trace in traces]

    def _redacted(self, event: Event) -> Event:
        named = self.config.counts
        return Event(
            {name: self._coarse(count) if not named or name in named else count for name, count in event.items()}
        )

    def _coarse(self, count: int) -> int:
        return count - count % self.config.size if self.config.size else 0
