"""factor: writes as many of a block's most confident positions as their joint uncertainty allows.

Idea: the uncertainties 1 - c of n positions written together add up, so more positions need higher confidence.
Equation: with c sorted descending, write the n most confident, n the largest with (n + 1) (1 - c_(n)) < f, and at least
    one.
Assumes: a model that fills masked positions; confidences that are probabilities.
Leaks: memorised text needs fewer steps: the trace shows the model's confidence, step by step.
Fails: like a threshold, for positions that are likely individually but not jointly.
Source: Wu et al. 2025, arXiv 2505.22618, the rule of its theorem on greedy parallel decoding.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.components.unmasker._blocks import BlockConfig, Stateless, surest
from fedsim.core.hooks import MaskedTextState
from fedsim.core.registry import component


class FactorConfig(BlockConfig):
    """Settings of the factor."""

    factor: float = Field(default=1.0, gt=0, description="f; towards 0 one place a step")


@final
@component(
    "factor",
    summary="unmasker: as many places as their doubt allows",
    tier="baseline",
    paper="2505.22618",
    fidelity="reproduction",
    paper_steps=(("the largest number of places that the factor allows", "Factor.choose"),),
)
class Factor(Stateless[FactorConfig]):
    """Writes the positions of a block with sufficiently small joint uncertainty."""

    def choose(self, confidence: Tensor, state: MaskedTextState, row: int) -> list[int]:
        """Return as many of the most confident positions as the rule allows."""
        ordered = confidence.sort(descending=True, stable=True).values
        doubts = torch.arange(2, len(ordered) + 2) * (1 - ordered)
        allowed = (doubts < self.config.factor).nonzero().flatten().tolist()
        return surest(confidence, allowed[-1] + 1 if allowed else 1)
