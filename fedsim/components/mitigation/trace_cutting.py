"""trace-cutting: show as much of every text as the shortest has.

Idea: what is left between texts of equal lengths is not their length.
Equation: steps up to the one that reaches min over texts of sum n, its tokens cut; as many counts of the work.
Assumes: nothing: it is a control that takes the length away, and no protection that a service could have.
Leaks: all but the length.
Fails: one text that is empty leaves nothing of all others.
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
@component("trace-cutting", summary="mitigation: texts of equal lengths, as a control")
class TraceCutting(Mitigation[TraceCuttingConfig]):
    """Ends every text where the shortest ends."""

    def veil(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the beginnings."""
        shortest = min((sum(trace.tokens) for trace in traces), default=0)
        return [_cut(trace, shortest) for trace in traces]


def _cut(trace: Trace, length: int) -> Trace:
    kept: list[int] = []
    for count in trace.tokens:
        if sum(kept) >= length:
            break
        kept.append(min(count, length - sum(kept)))
    return Trace(tuple(kept), trace.events[: len(kept)])
