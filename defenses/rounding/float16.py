"""float16: rounds every entry to half precision; a control, not a defense.

Gradients below 6e-8 are lost, and closed forms can no longer claim exactness.

Idea: About three digits remain. Closed forms that rely on exact zeros of a residual fail; little else changes.
Equation: g' = float32(float16(g)); entries beyond the largest number, 65,504, become that number.
Assumes: nothing.
Protects: nothing; closed forms are no longer exact.
Fails: against every attack that does not need an exact gradient.
Source: IEEE 754, binary16.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from defenses.core.tensors import TensorConfig, TensorDefense
from fedsim.core.hooks import Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import Rounded


class Float16Config(TensorConfig):
    """Half precision has no settings of its own."""


@final
@defense("float16", summary="rounds every entry to half precision (a control)", tier="core")
class Float16(TensorDefense[Float16Config]):
    """Rounds to the nearest value, ties to even."""

    place: ClassVar[Place] = "rounding"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the rounded tensors in their own type."""
        largest = torch.finfo(torch.float16).max
        return {name: t.clamp(-largest, largest).half().to(t.dtype) for name, t in tensors.items()}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the rounding as noise of standard deviation step / sqrt(12)."""
        return Distortion(noise=lambda tensors: {name: _step(t) / 12**0.5 for name, t in tensors.items()})

    def adaptive_view(self) -> MethodDescription:
        """Return that entries are rounded."""
        return MethodDescription("float16", (Rounded(),))


def _step(tensor: Tensor) -> Tensor:
    """Return the distance between neighbouring half-precision numbers, 2^-24 at least."""
    return (2.0 ** (tensor.abs().clamp_min(2.0**-14).log2().floor() - 10)).to(tensor.dtype)
