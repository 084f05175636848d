"""outpost: prunes and adds noise in early local steps, by the risk of each layer, and in later steps less often.

A FedSGD gradient is always changed, since local steps count from 0 in every round. The public code of the method
returns the unchanged gradient; this implementation does not. The Fisher information is the squared gradient of the
batch, entry by entry. The noise has another scale in every tensor, which no attack here uses.

Idea: Early steps and layers of varied weights leak most, so the defense is spent on them.
Equation: at local step t, with probability 1 / (1 + beta t): top-k of each tensor, then N(0, (a risk_l)^2) on the
    entries with the largest Fisher information (squared gradient) over all tensors; risk_l = min(Var(theta_l), 1).
Assumes: a server that sees a single gradient of an early step. Steps count from 0 in every round.
Protects: details of the input in steps that are changed. No guarantee.
Fails: in steps that are left unchanged, and against matching on the sent entries.
Source: Wang, Hugh, Li 2023 (INFOCOM), "More than Enough is Too Much: Adaptive Defenses against Gradient Leakage in
    Production Federated Learning".
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from defenses.core.support import largest, zero_outside
from fedsim.core.hooks import Defense, HookContext, Place
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription, Tensors
from fedsim.core.types.effects import Noise, Sparsified


class OutpostConfig(Config):
    """Settings of Outpost; the defaults are the paper's."""

    beta: float = Field(default=0.125, ge=0, description="decay: step t is changed with probability 1 / (1 + beta t)")
    rate: float = Field(default=0.8, ge=0, lt=1, description="share of each tensor's entries that become zero")
    noise: float = Field(default=0.8, ge=0, description="a: standard deviation, in units of each tensor's risk")
    noised_share: float = Field(default=0.4, ge=0, le=1, description="share of all tensors' entries that get noise")


@final
@defense(
    "outpost",
    summary="prunes and disturbs early local steps by layer risk (Outpost)",
    tier="baseline",
    paper="Wang 2023, INFOCOM",
    fidelity="reproduction",
    paper_steps=(
        ("a step is changed with a probability that decays", "Outpost.on_gradient"),
        ("risk of a layer: variance of its weights", "risk"),
        ("pruning of the smallest entries of each tensor", "defenses.core.support.zero_outside"),
        ("noise on the entries of largest Fisher information", "Outpost.on_gradient"),
    ),
)
class Outpost(Defense[OutpostConfig]):
    """Computes the risk from the weights of the current step."""

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = True

    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the gradient, pruned and noised with the step's probability."""
        probability = 1.0 / (1.0 + self.config.beta * context.step)
        if context.local is None or float(torch.rand((), generator=context.generator)) >= probability:
            return gradient
        sizes = {name: g.abs() for name, g in gradient.items()}
        pruned = zero_outside(gradient, largest(sizes, self.config.rate, "tensor"))
        if not self.config.noise:
            return pruned
        noised = largest(sizes, 1.0 - self.config.noised_share, "model")  # |g| and g^2 rank entries alike
        scales = {name: self.config.noise * risk(context.local.parameters[name].detach()) for name in gradient}
        return {
            name: torch.where(noised[name], g + scales[name] * _draw(g, context.generator), g)
            for name, g in pruned.items()
        }

    def adaptive_view(self) -> MethodDescription:
        """Return the share sent in a changed step, and the noise distribution; its scale depends on the weights."""
        config = self.config
        kept = (Sparsified(1.0 - config.rate),) if config.rate else ()
        noise = (Noise("gaussian"),) if config.noise else ()
        return MethodDescription("outpost", (*kept, *noise), {"beta": config.beta, "noise": config.noise})


def risk(weights: Tensor) -> Tensor:
    """Return min(Var(theta), 1), a scalar."""
    return weights.var(correction=0).clamp_max(1.0)


def _draw(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
