"""trace-padding: pads each step to the largest step and each text to the longest text.

Idea: a trace that is equal for all texts reveals nothing about a single text.
Equation: n_t = max n and c_t = max c over all texts and steps, for t = 1 .. max T.
Assumes: public maxima, such as limits of the service.
Leaks: the maxima only.
Fails: each text costs as many steps and tokens as the largest; seconds are not padded.
Source: padding of packets, Wei et al. 2024, arXiv 2411.01076.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from fedsim.core.hooks import Mitigation
from fedsim.core.registry import component
from fedsim.core.types import Config, Event, Trace


class TracePaddingConfig(Config):
    """No settings."""


@final
@component(
    "trace-padding",
    summary="mitigation: all steps as large as the largest, all texts as long as the longest",
    tier="core",
)
class TracePadding(Mitigation[TracePaddingConfig]):
    """Replaces all traces by the same padded trace."""

    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the padded trace once per text."""
        steps = max((max(len(trace.tokens), len(trace.events)) for trace in traces), default=0)
        largest = max((count for trace in traces for count in trace.tokens), default=0)
        counts: dict[str, int] = {}
        for event in (event for trace in traces for event in trace.events):
            counts.update({name: max(count, counts.get(name, 0)) for name, count in event.items()})
        return [Trace((largest,) * steps, (Event(counts),) * steps)] * len(traces)
