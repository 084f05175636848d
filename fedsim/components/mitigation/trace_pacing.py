"""trace-pacing: sends a token per packet, independent of the tokens per step.

Idea: a buffer between decoder and network sends tokens at a constant rate.
Equation: n'_t = 1 for t = 1 .. sum n; the counts of the work stay.
Assumes: packets of equal size, and a rate below the decoder's slowest.
Leaks: the length of the text; to an observer of the work, all counts.
Fails: against an attacker on the same machine.
Source: constant-time token dispatch, in the manner of Wei et al. 2024, arXiv 2411.01076.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from fedsim.core.hooks import Mitigation
from fedsim.core.registry import component
from fedsim.core.types import Config, Trace


class TracePacingConfig(Config):
    """No settings."""


@final
@component("trace-pacing", summary="mitigation: a token per packet at a constant rate", tier="core")
class TracePacing(Mitigation[TracePacingConfig]):
    """Sends single tokens."""

    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return a single-token packet for each token of a text."""
        return [Trace((1,) * sum(trace.tokens), trace.events) for trace in traces]
