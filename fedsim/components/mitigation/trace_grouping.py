"""trace-grouping: shows only sums over groups of k steps.

Idea: an observer that sees a single packet for k steps learns only their sum.
Equation: n'_s = sum of n_t over t = s k + 1 .. s k + k; the same for each count.
Assumes: a buffer; the user waits for k steps.
Leaks: sums of k steps, and the number of groups.
Fails: for long texts: their sums still differ.
Source: aggregation over iterations, Wei et al. 2024, arXiv 2411.01076.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field

from fedsim.core.hooks import Mitigation
from fedsim.core.registry import component
from fedsim.core.types import Config, Event, Trace


class TraceGroupingConfig(Config):
    """Settings of the groups."""

    steps: int = Field(default=4, ge=2, description="k, steps of a group")


@final
@component("trace-grouping", summary="mitigation: the sum of several steps", tier="core")
class TraceGrouping(Mitigation[TraceGroupingConfig]):
    """Adds up the counts of k consecutive steps."""

    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the grouped traces."""
        return [self._group_steps(trace) for trace in traces]

    def _group_steps(self, trace: Trace) -> Trace:
        size = self.config.steps
        tokens = tuple(sum(trace.tokens[start : start + size]) for start in range(0, len(trace.tokens), size))
        series = trace.series()
        events = tuple(
            Event({name: sum(counts[start : start + size]) for name, counts in series.items()})
            for start in range(0, len(trace.events), size)
        )
        return Trace(tokens, events)
