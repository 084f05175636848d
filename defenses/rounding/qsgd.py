"""qsgd: rounds each entry at random to a level out of L of its tensor's norm, unbiased.

Idea: The rounding is independent noise, large for few levels; then most entries become 0.
Equation: q = ||g|| sign(g) xi / L, xi = L |g| / ||g|| rounded stochastically, so that E q = g
Assumes: a server that sees a gradient once.
Protects: details of the input at few levels. No guarantee: the size of the noise is known.
Fails: against averaging over rounds, and at many levels against plain matching.
Source: Alistarh et al. 2017, arXiv 1610.02132, section 3.1; each tensor is a bucket.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from defenses.core.tensors import TensorConfig, TensorDefense, rounding_as_noise, stochastically_rounded
from fedsim.core.hooks import Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import Rounded


class QsgdConfig(TensorConfig):
    """Settings of QSGD."""

    levels: int = Field(default=16, ge=1, le=65_536, description="levels above zero; 1: each entry is a sign or zero")


@final
@defense(
    "qsgd",
    summary="unbiased rounding to levels of each tensor's norm (QSGD)",
    tier="baseline",
    paper="1610.02132",
    fidelity="reproduction",
    paper_steps=(
        ("levels of the tensor's norm", "Qsgd._round"),
        ("unbiased rounding", "defenses.core.tensors.stochastically_rounded"),
    ),
)
class Qsgd(TensorDefense[QsgdConfig]):
    """Rounds stochastically, with new random numbers each time."""

    place: ClassVar[Place] = "rounding"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the rounded tensors."""
        return {name: self._round(t, context.generator) for name, t in tensors.items()}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the rounding as noise, if steps are small compared with the spread of a tensor's entries."""
        return Distortion(noise=lambda tensors: rounding_as_noise(tensors, lambda t: t.norm() / self.config.levels))

    def adaptive_view(self) -> MethodDescription:
        """Return the number of levels."""
        return MethodDescription("qsgd", (Rounded(),), {"levels": self.config.levels})

    def _round(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        norm, levels = tensor.norm(), self.config.levels
        if not norm > 0:
            return tensor
        return norm * tensor.sign() * stochastically_rounded(levels * tensor.abs() / norm, generator) / levels
