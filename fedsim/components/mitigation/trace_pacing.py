"""trace-pacing: send one token a packet, however many a step gave.

Idea: a buffer between decoder and network sends tokens at a constant pace.
Equation: n'_t = 1 for t = 1 .. sum n; the counts of the work stay.
Assumes: packets of one size, and a pace below the decoder's slowest.
Leaks: the length of the text; to who sees the work, all that it did.
Fails: against a neighbour on the machine.
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
@component("trace-pacing", summary="mitigation: one token a packet at a constant pace")
class TracePacing(Mitigation[TracePacingConfig]):
    """Sends tokens one by one."""

    def veil(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return as many packets of one token as each text has tokens."""
        return [Trace((1,) * sum(trace.tokens), trace.events) for trace in traces]
