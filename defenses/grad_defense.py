"""GradDefense: noise on a few slices of the gradient, cut so that all slices are equally sensitive to the input.

The sensitivity of a tensor is the mean over examples of ||d (sum of the tensor's gradient) / dx||, spread evenly over
its entries. The flat gradient is cut into slices of equal total sensitivity; some, drawn at random, get N(0, s^2).
Paper: Wang et al. 2022 (INFOCOM), "Protect Privacy from Gradient Leakage Attack in Federated Learning". It measures on
a public root set; here on the batch of the step, which every client has, and which is what is to be protected. The
paper's clipping of slices and the server's compensation are left out.
Broken by the slices without noise: matched by absolute differences, they give the image away.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses._inside import outputs_of
from fedsim.hooks import Defense, Here, LocalStep, Place, Rules
from fedsim.losses import cross_entropy
from fedsim.registry import defense
from fedsim.types import Config, PublicKnowledge, Tensors


class GradDefenseConfig(Config):
    """Settings of GradDefense."""

    slices: int = Field(default=10, ge=1, description="slices of equal sensitivity")
    perturbed: int = Field(default=5, ge=0, description="slices that get noise, drawn anew at every step")
    scale: float = Field(default=1e-2, ge=0, description="standard deviation, in units of the gradient")


@final
@defense("grad-defense", summary="noise on random slices of equal sensitivity (GradDefense)")
class GradDefense(Defense[GradDefenseConfig]):
    """One more backward pass a tensor, at every local step."""

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = True

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse to disturb more slices than there are."""
        config = self.config
        if config.perturbed <= config.slices:
            return None
        return f"'perturbed' is {config.perturbed}, but there are {config.slices} slices"

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the gradient with noise on the chosen slices."""
        if here.local is None or not self.config.scale:
            return gradient
        slices = slices_of(sensitivities(here.local), {n: g.numel() for n, g in gradient.items()}, self.config.slices)
        chosen = torch.randperm(self.config.slices, generator=here.generator)[: self.config.perturbed]
        return {
            name: torch.where(
                torch.isin(slices[name], chosen).view(g.shape), g + self._noise(g, here.generator), g
            )
            for name, g in gradient.items()
        }  # fmt: skip

    def adaptive_view(self) -> PublicKnowledge:
        """Return the noise law, its scale, and the share of entries that it is likely to hit."""
        config = self.config
        share = min(1.0, config.perturbed / config.slices)
        facts = {"noise_law": "gaussian", "noise_scale": config.scale if share else 0.0, "noised_share": share}
        return PublicKnowledge("grad-defense", facts)

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.config.scale * torch.randn(like.shape, generator=generator, dtype=like.dtype)


def sensitivities(local: LocalStep) -> dict[str, float]:
    """Return the sensitivity of every parameter's gradient; zeros for an empty batch."""
    if not len(local.batch):
        return dict.fromkeys(local.parameters, 0.0)
    inputs = local.batch.inputs.detach().clone().requires_grad_()
    loss = cross_entropy(outputs_of(local, inputs), local.batch.labels)
    parameters = list(local.parameters.values())
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    return {
        name: _slope(gradient.sum(), inputs) * len(inputs)  # of the mean loss an example has one B-th
        for name, gradient in zip(local.parameters, gradients, strict=True)
    }


def slices_of(sensitivity: dict[str, float], sizes: dict[str, int], slices: int) -> dict[str, Tensor]:
    """Return the slice (from 0) of every entry of every tensor, flattened; by size where nothing is sensitive."""
    weights: dict[str, float] = {**(sensitivity if any(sensitivity.values()) else sizes)}
    total = sum(weights.values())
    found: dict[str, Tensor] = {}
    before = 0.0
    for name, size in sizes.items():
        middles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        found[name] = ((before + weights[name] / total * middles) * slices).long().clamp_max(slices - 1)
        before += weights[name] / total
    return found


def _slope(figure: Tensor, inputs: Tensor) -> float:
    """Return the mean over examples of ||d figure / dx||; 0 where the figure does not depend on the inputs."""
    if not figure.requires_grad:
        return 0.0
    slope = torch.autograd.grad(figure, inputs, retain_graph=True, materialize_grads=True)[0]
    return float(slope.flatten(1).norm(dim=1).mean())
