"""threshold: write every place of a block of which the model is sure enough, and at least the surest.

Idea: where the model is sure of several places at once they hardly depend on each other, so they are written together.
Equation: write all i of the block with c_i >= theta, or else argmax_i c_i; c is the probability of the proposed token.
Assumes: a model that fills in masked places; confidences that are probabilities.
Leaks: a text that the model knows takes fewer steps: the trace shows its confidence, step by step.
Fails: the threshold knows nothing of the task: too slow where any of equal choices would do, wrong where each place
    alone is likely and all together are not.
Source: Wu et al. 2025, arXiv 2505.22618, confidence-aware parallel decoding.
"""

from __future__ import annotations

from typing import final

from pydantic import Field
from torch import Tensor

from fedsim.components.unmasker._blocks import BlockConfig, Stateless, surest
from fedsim.core.hooks import Unmasking
from fedsim.core.registry import component


class ThresholdConfig(BlockConfig):
    """Settings of a threshold."""

    threshold: float = Field(default=0.9, ge=0, description="theta; 0: a block in one step, above 1: one place a step")


@final
@component(
    "threshold",
    summary="unmasker: every place above a confidence",
    paper="2505.22618",
    fidelity="reproduction",
    paper_steps=(
        (
            "places above a confidence, or else the surest",
            "Threshold.choose",
            "test_those_above_go_together_and_else_the_surest_goes",
        ),
    ),
)
class Threshold(Stateless[ThresholdConfig]):
    """Writes the places of a block above a confidence."""

    def choose(self, confidence: Tensor, state: Unmasking, row: int) -> list[int]:
        """Return those above the threshold, or the surest."""
        above = (confidence >= self.config.threshold).nonzero().flatten().tolist()
        return above or surest(confidence, 1)
