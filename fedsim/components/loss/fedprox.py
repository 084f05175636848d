"""fedprox: adds a proximal term that keeps local training near the received weights.

Idea: Clients with different data distributions diverge in local steps; the term limits the divergence.
Equation: loss + mu / 2 ||w - w_received||^2 over the trainable weights
Assumes: several local steps; their number is fixed, unlike the paper's inexact solver.
Leaks: the gradient at the received weights is unchanged, so a one-step update leaks as much as without it; updates of
    several steps stay closer to weights that the attacker knows.
Fails: as a defense.
Source: Li et al. 2018, arXiv 1812.06127, algorithm 2.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.hooks import ANYTHING, HookContext, LossTerm
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, Modality


class FedProxConfig(Config):
    """Settings of the proximal term."""

    mu: float = Field(
        default=0.01, ge=0, description="weight of the proximal term, in units of loss per squared weight"
    )


@final
@component(
    "fedprox",
    summary="keeps local training near the received weights",
    tier="core",
    paper="1812.06127",
    fidelity="reproduction",
    paper_steps=(
        ("proximal term", "FedProx.loss"),
        ("several local steps with the term", "FedProx.loss"),
    ),
)
class FedProx(LossTerm[FedProxConfig]):
    """The proximal term, which limits the divergence of clients with different data distributions."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor, context: HookContext) -> Tensor:
        """Return mu / 2 times the squared distance to the received weights, a scalar."""
        distances = [
            (weight - context.received_weights[name]).square().sum()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        ]
        return 0.5 * self.config.mu * torch.stack(distances).sum()
