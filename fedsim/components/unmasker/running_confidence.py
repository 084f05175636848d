"""running-confidence: predicts all positions in each step, and masks the least confident positions again.

Idea: a token predicted early from little context can be replaced by a later, more confident prediction.
Equation: after step s of a block with M positions and S steps the r_s positions of lowest confidence are masked again,
    each with the confidence of the step that proposed its token; r_s = floor(M (1 - s / S)).
Assumes: a model that fills masked positions; steps that are a multiple of the number of blocks.
Leaks: the trace shows the schedule, and in `remasked` how often predictions changed; no token of a block is written
    before its end, so packets show only blocks.
Fails: confidences of different steps are compared, although confidence grows with context.
Source: He et al. 2025, arXiv 2508.13148, running confidence remasking.
"""

from __future__ import annotations

from typing import final

import torch

from fedsim.components.unmasker._blocks import Proposed
from fedsim.components.unmasker._revising import Guesses, Revising, RevisingConfig
from fedsim.core.registry import component


class RunningConfidenceConfig(RevisingConfig):
    """Settings of running confidence."""


@final
@component(
    "running-confidence",
    summary="unmasker: proposes all positions, and remasks the least confident",
    tier="research",
    paper="2508.13148",
    fidelity="variant",
    deviates="a block that has ended stays; published code may mask it anew",
    paper_steps=(("places with the least running confidence are masked again", "RunningConfidence.revise"),),
)
class RunningConfidence(Revising[RunningConfidenceConfig]):
    """Keeps the most confident guesses, as many as scheduled."""

    def revise(self, before: Guesses, proposed: Proposed, steps: int, generator: torch.Generator) -> Guesses:
        """Return the most confident of all guesses; ties go to the lower position."""
        joined = before.add_proposals(proposed)
        count = len(joined.tokens)
        kept = count - count * (steps - before.step_count - 1) // steps
        surest = sorted(joined.tokens, key=lambda place: (-joined.confidence[place], place))[:kept]
        return joined.of(sorted(surest))
