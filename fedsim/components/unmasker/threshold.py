"""threshold: writes all positions of a block with sufficient confidence, and at least the most confident position.

Idea: positions of high confidence hardly depend on each other, so they can be written together.
Equation: write all i of the block with c_i >= theta, or else argmax_i c_i; c is the probability of the proposed token.
Assumes: a model that fills masked positions; confidences that are probabilities.
Leaks: memorised text needs fewer steps: the trace shows the model's confidence, step by step.
Fails: the threshold is independent of the task: too slow among equivalent choices, wrong for positions that are likely
    individually but not jointly.
Source: Wu et al. 2025, arXiv 2505.22618, confidence-aware parallel decoding.
"""

from __future__ import annotations

from typing import final

from pydantic import Field
from torch import Tensor

from fedsim.components.unmasker._blocks import BlockConfig, Stateless, surest
from fedsim.core.hooks import MaskedTextState
from fedsim.core.registry import component


class ThresholdConfig(BlockConfig):
    """Settings of a threshold."""

    threshold: float = Field(
        default=0.9, ge=0, description="theta; 0: a whole block per step, above 1: a single position per step"
    )


@final
@component(
    "threshold",
    summary="unmasker: every place above a confidence",
    tier="baseline",
    paper="2505.22618",
    fidelity="reproduction",
    paper_steps=(("places above a confidence, or else the surest", "Threshold.choose"),),
)
class Threshold(Stateless[ThresholdConfig]):
    """Writes the positions of a block above a confidence."""

    def choose(self, confidence: Tensor, state: MaskedTextState, row: int) -> list[int]:
        """Return the positions above the threshold, else the most confident position."""
        confident = (confidence >= self.config.threshold).nonzero().flatten().tolist()
        return confident or surest(confidence, 1)
