"""grad-defense: adds noise to random slices of the gradient that are equally sensitive to the input.

Sensitivities are measured on the batch of the step, since every client has it and it is the data to protect.
`map-estimate` sums absolute differences, whose minimum does not move when up to half of the entries are wrong.

Idea: Noise on a few sensitive slices disturbs an inversion and costs little accuracy.
Equation: sensitivity of a tensor: mean over examples of ||d (sum of its gradient) / dx||, spread evenly over its
    entries; the flat gradient is cut into slices of equal total sensitivity, and some get N(0, s^2).
Assumes: a server that sees a single gradient. Sensitivity is measured on the step's batch, not on a public root set.
Protects: details of the input from matching with equal weights of all entries. No guarantee.
Fails: slices without noise are exact; matching by absolute differences recovers the image from them.
Source: Wang et al. 2022 (INFOCOM), "Protect Privacy from Gradient Leakage Attack in Federated Learning". Its clipping
    is `slice-clipping`, its compensation on the server the aggregator `compensated-mean`.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.core.slices import sensitivities, slices_of
from fedsim.core.hooks import Defense, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription, Tensors
from fedsim.core.types.effects import AddedNoise


class GradDefenseConfig(Config):
    """Settings of GradDefense."""

    slices: int = Field(default=10, ge=1, description="slices of equal sensitivity")
    noisy_slices: int = Field(default=5, ge=0, description="slices that get noise, drawn anew at every step")
    scale: float = Field(default=1e-2, ge=0, description="standard deviation, in units of the gradient")


@final
@defense(
    "grad-defense",
    summary="noise on random slices of equal sensitivity (GradDefense)",
    tier="baseline",
    paper="Wang 2022, INFOCOM",
    fidelity="variant",
    deviates="sensitivity is measured on the step's batch, not on a root set",
    paper_steps=(
        ("sensitivity of each tensor", "defenses.core.slices.sensitivities"),
        ("slices of equal sensitivity", "defenses.core.slices.slices_of"),
        ("noise on random slices", "GradDefense.on_gradient"),
        ("sensitivity on a public root set", ""),
    ),
    aliases=("graddefense",),
)
class GradDefense(Defense[GradDefenseConfig]):
    """Needs one more backward pass per tensor, at every local step."""

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = True

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse more noisy slices than slices."""
        config = self.config
        if config.noisy_slices <= config.slices:
            return None
        return f"'noisy_slices' is {config.noisy_slices}, but the number of slices is {config.slices}"

    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the gradient with noise on the chosen slices."""
        if context.local is None or not self.config.scale:
            return gradient
        slices = slices_of(
            sensitivities(context.local), {n: g.numel() for n, g in gradient.items()}, self.config.slices
        )
        chosen = torch.randperm(self.config.slices, generator=context.generator)[: self.config.noisy_slices]
        return {
            name: torch.where(
                torch.isin(slices[name], chosen).view(g.shape), g + self._noise(g, context.generator), g
            )
            for name, g in gradient.items()
        }  # fmt: skip

    def adaptive_view(self) -> MethodDescription:
        """Return the noise distribution, its scale, and the expected share of entries with noise."""
        config = self.config
        if not config.scale or not config.noisy_slices:
            return MethodDescription("grad-defense")
        share = min(1.0, config.noisy_slices / config.slices)
        return MethodDescription("grad-defense", (AddedNoise("gaussian", config.scale, share=share),))

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.config.scale * torch.randn(like.shape, generator=generator, dtype=like.dtype)
