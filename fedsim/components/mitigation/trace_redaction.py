"""trace-redaction: coarsens or removes named counts of each step.

Idea: an observer that gets counts from the server alone, e.g. from bills or logs, needs few of them, and none exactly.
Equation: c'_t = size floor(c_t / size) of each named count c; 0 without a size. Packets and other counts stay.
Assumes: the server is the only source; an attacker on the same machine observes the unchanged work.
Leaks: the class of each count; the number of steps; information about named counts in the other counts.
Fails: if a related count is not listed: rejected = calls minus accepted, for example.
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
    size: int | None = Field(default=None, ge=2, description="width of a class; unset: the counts are removed")


@final
@component("trace-redaction", summary="mitigation: rounds named counts to coarse classes, or removes them", tier="core")
class TraceRedaction(Mitigation[TraceRedactionConfig]):
    """Rounds named counts down, or sets them to 0."""

    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the traces with redacted counts."""
        return [Trace(trace.tokens, tuple(map(self._redact_event, trace.events)), trace.places) for trace in traces]

    def _redact_event(self, event: Event) -> Event:
        named = self.config.counts
        return Event(
            {name: self._coarse(count) if not named or name in named else count for name, count in event.items()}
        )

    def _coarse(self, count: int) -> int:
        return count - count % self.config.size if self.config.size else 0
