"""factor: write as many of the surest places of a block as their own doubt allows.

Idea: the doubt 1 - c of n places written together adds up, so more places ask for more confidence.
Equation: with c sorted falling, write the n surest, n the largest with (n + 1) (1 - c_(n)) < f, and at least one.
Assumes: a model that fills in masked places; confidences that are probabilities.
Leaks: a text that the model knows takes fewer steps: the trace shows its confidence, step by step.
Fails: like a threshold, places that each are likely and together are not.
Source: Wu et al. 2025, arXiv 2505.22618, the rule of its theorem on greedy parallel decoding.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.components.unmasker._blocks import BlockConfig, Stateless, surest
from fedsim.core.hooks import Unmasking
from fedsim.core.registry import component


class FactorConfig(BlockConfig):
    """Settings of the factor."""

    factor: float = Field(default=1.0, gt=0, description="f; towards 0 one place a step")


@final
@component(
    "factor",
    summary="unmasker: as many places as their doubt allows",
    paper="2505.22618",
    fidelity="reproduction",
    paper_steps=(
        (
            "the largest number of places that the factor allows",
            "Factor.choose",
            "test_it_writes_the_largest_number_that_the_rule_allows",
        ),
    ),
)
class Factor(Stateless[FactorConfig]):
    """Writes the places of a block whose common doubt is small enough."""

    def choose(self, confidence: Tensor, state: Unmasking, row: int) -> list[int]:
        """Return the surest, as many as the rule allows."""
        ordered = confidence.sort(descending=True, stable=True).values
        doubts = torch.arange(2, len(ordered) + 2) * (1 - ordered)
        allowed = (doubts < self.config.factor).nonzero().flatten().tolist()
        return surest(confidence, allowed[-1] + 1 if allowed else 1)
