"""trace-cutting: truncates all traces to the shortest text.

Idea: texts of equal length differ only by other side channels.
Equation: steps up to min over texts of sum n tokens, the last step cut; the counts of these steps.
Assumes: nothing; it is a control that removes the length, not a protection that a service could use.
Leaks: everything except the length.
Fails: a single empty text truncates all traces to nothing.
Source: the usual control for lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from fedsim.core.hooks import Mitigation
from fedsim.core.registry import component
from fedsim.core.types import Config, Trace


class TraceCuttingConfig(Config):
    """No settings."""


@final
@component("trace-cutting", summary="mitigation: texts of equal lengths, as a control", tier="core")
class TraceCutting(Mitigation[TraceCuttingConfig]):
    """Truncates each trace to the length of the shortest text."""

    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the truncated traces."""
        shortest = min((sum(trace.tokens) for trace in traces), default=0)
        return [_cut(trace, shortest) for trace in traces]


def _cut(trace: Trace, length: int) -> Trace:
    kept: list[int] = []
    for count in trace.tokens:
        if sum(kept) >= length:
            break
        kept.append(min(count, length - sum(kept)))
    return Trace(tuple(kept), trace.events[: len(kept)])
