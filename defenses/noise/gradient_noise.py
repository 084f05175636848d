"""gradient-noise: adds independent noise to every entry of a gradient or update.

s is the standard deviation for both distributions. After pruning, noise fills the zeros, so that no bandwidth is saved
and the support is hidden. `map-estimate` matches under the noise distribution with a prior.

Idea: The oldest defense, and the baseline for the others.
Equation: g' = g + s z; with `relative` g' = g + s rms(g_l) z for each tensor g_l, z of the chosen distribution.
Assumes: a server that sees a gradient once.
Protects: details of the input, if the noise is strong. No differential privacy: nothing bounds the sensitivity.
Fails: against averaging over rounds, and against matching under the noise's distribution.
Source: Zhu, Liu, Han 2019, arXiv 1906.08935, section 5.1.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from defenses.core.tensors import TensorConfig, TensorDefense
from fedsim.core.hooks import Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import AddedNoise


class GradientNoiseConfig(TensorConfig):
    """Settings of gradient noise."""

    scale: float = Field(default=1e-3, ge=0, description="standard deviation, in units of the gradient")
    law: Literal["gaussian", "laplace"] = "gaussian"
    relative: bool = Field(default=False, description="whether the scale is in units of each tensor's root mean square")


@final
@defense(
    "gradient-noise",
    summary="independent noise on every entry of a gradient or update",
    tier="core",
    related="1906.08935",
)
class GradientNoise(TensorDefense[GradientNoiseConfig]):
    """Adds new noise to the gradient of every local step, or once to the update."""

    place: ClassVar[Place] = "noise"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the tensors plus noise."""
        if self.config.law == "gaussian":
            return {name: context.add_noise(t, float(self._scale(t))) for name, t in tensors.items()}
        return {name: t + self._laplace(t, context.generator) for name, t in tensors.items()}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the noise by its standard deviation, whatever its distribution."""
        return Distortion(
            noise=lambda tensors: {name: t.new_ones(t.shape) * self._scale(t) for name, t in tensors.items()}
        )

    def adaptive_view(self) -> MethodDescription:
        """Return the noise distribution, its scale, and whether the scale is relative."""
        config = self.config
        noise = (AddedNoise(config.law, config.scale, config.relative),) if config.scale else ()
        return MethodDescription("gradient-noise", noise)

    def _scale(self, tensor: Tensor) -> Tensor | float:
        return self.config.scale * tensor.square().mean().sqrt() if self.config.relative else self.config.scale

    def _laplace(self, like: Tensor, generator: torch.Generator) -> Tensor:
        # Not empty_like: it copies the gradient's memory layout, and the order of the draws would depend on it.
        blank, scale = torch.empty(like.shape, dtype=like.dtype), self._scale(like)
        magnitude = blank.clone().exponential_(generator=generator)
        sign = 2.0 * blank.bernoulli_(0.5, generator=generator) - 1.0
        return scale / 2**0.5 * sign * magnitude
