"""quantisation: rounds each entry at random to 2^k equidistant values, unbiased.

Unlike signs and QSGD it hides which units were dropped, since zeros do not stay zeros.

Idea: The rounding is independent noise of at most a step. Zeros become values near zero.
Equation: values low + n step, step = (high - low) / (2^k - 1), low and high the extremes of a tensor's entries
Assumes: a server that sees a gradient once.
Protects: details of the input at few bits. No guarantee: the size of the noise is known.
Fails: against averaging over rounds, and with more bits against plain matching.
Source: Suresh et al. 2017, arXiv 1611.00429, section 2.2 (stochastic k-level quantisation).
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


class QuantisationConfig(TensorConfig):
    """Settings of uniform quantisation."""

    bits: int = Field(default=8, ge=1, le=16, description="bits per entry: each tensor's entries take 2^bits values")


@final
@defense(
    "quantisation",
    summary="unbiased rounding to 2^k equidistant values of each tensor",
    tier="core",
    paper="1611.00429",
    fidelity="reproduction",
    paper_steps=(
        ("equidistant values between the extremes", "Quantisation._round"),
        ("unbiased rounding", "defenses.core.tensors.stochastically_rounded"),
    ),
)
class Quantisation(TensorDefense[QuantisationConfig]):
    """Rounds stochastically, with new random numbers each time."""

    place: ClassVar[Place] = "rounding"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the rounded tensors."""
        return {name: self._round(t, context.generator) for name, t in tensors.items()}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the rounding as noise, if steps are small compared with the spread of a tensor's entries."""

        def step(tensor: Tensor) -> Tensor:
            low, high = tensor.aminmax()
            return (high - low) / (2**self.config.bits - 1)

        return Distortion(noise=lambda tensors: rounding_as_noise(tensors, step))

    def adaptive_view(self) -> MethodDescription:
        """Return the number of bits."""
        return MethodDescription("quantisation", (Rounded(),), {"bits": self.config.bits})

    def _round(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        low, high = tensor.aminmax()
        highest = 2**self.config.bits - 1
        step = (high - low) / highest
        if not step > 0:
            return tensor
        return low + step * stochastically_rounded(((tensor - low) / step).clamp(0, highest), generator)
