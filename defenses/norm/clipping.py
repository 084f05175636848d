"""clipping: scales the gradient or update down to a Euclidean norm of at most C.

Noise of scale s C after it is not differential privacy for a record, since no example is clipped by itself.
`map-estimate` clips the gradients of its guesses too. A small norm costs accuracy.

Idea: Bounds a client's contribution to the sum: half of differential privacy; noise is the other half.
Equation: g' = g min(1, C / ||g||), over all parameters jointly.
Assumes: nothing; it clips a step's whole gradient or the whole update, not each example.
Protects: nothing by itself.
Fails: against every attack that matches directions, since clipping changes only the scale.
Source: Abadi et al. 2016, arXiv 1607.00133, section 3.1 (in the paper per example).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field

from defenses.core.tensors import TensorConfig, TensorDefense
from fedsim.core.hooks import Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import Clipped


class ClippingConfig(TensorConfig):
    """Settings of clipping."""

    norm: float = Field(
        default=1.0, gt=0, description="largest Euclidean norm over all parameters, in units of the gradient"
    )


@final
@defense(
    "clipping",
    summary="bounds the norm of every step's gradient, or of the update",
    tier="core",
    paper="1607.00133",
    fidelity="variant",
    deviates="clips a step or an update, not each example; no noise",
    paper_steps=(
        ("norm of the whole gradient bounded", "Clipping._clip_tensors"),
        ("clipping of each example", ""),
        ("noise on the sum", ""),
    ),
)
class Clipping(TensorDefense[ClippingConfig]):
    """Scales the whole gradient, including scalars, and leaves shorter gradients unchanged."""

    place: ClassVar[Place] = "norm"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the tensors with norm at most `norm`."""
        return self._clip_tensors(tensors)

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the scaling, which hides a single direction: the gradient's norm."""
        return Distortion(change=self._clip_tensors)

    def _clip_tensors(self, tensors: Tensors) -> Tensors:
        norm = torch.stack([t.norm() for t in tensors.values()]).norm()
        factor = (self.config.norm / norm.clamp_min(1e-30)).clamp_max(1.0)
        return {name: t * factor for name, t in tensors.items()}

    def adaptive_view(self) -> MethodDescription:
        """Return the bound."""
        return MethodDescription("clipping", (Clipped(self.config.norm),))
