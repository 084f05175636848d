"""Clipping: the gradient scaled to a Euclidean norm of at most C: g' = g min(1, C / ||g||).

Paper: Abadi et al. 2016, arXiv 1607.00133, section 3.1 (there for every example; here for the whole gradient of a
step). Alone it protects nothing: attacks that match directions do not see the scale.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field

from fedsim.hooks import Defense, Here, Place
from fedsim.registry import defense
from fedsim.types import Config, PublicKnowledge, Tensors


class ClippingConfig(Config):
    """Settings of clipping."""

    norm: float = Field(
        default=1.0, gt=0, description="largest Euclidean norm over all parameters, in units of the gradient"
    )


@final
@defense("clipping", summary="bounds the norm of every step's gradient", paper="1607.00133")
class Clipping(Defense[ClippingConfig]):
    """Scales the whole gradient, scalars included, and leaves shorter gradients as they are."""

    place: ClassVar[Place] = "clip"

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the gradient with norm at most `norm`."""
        norm = torch.stack([g.norm() for g in gradient.values()]).norm()
        factor = (self.config.norm / norm.clamp_min(1e-30)).clamp_max(1.0)
        return {name: g * factor for name, g in gradient.items()}

    def adaptive_view(self) -> PublicKnowledge:
        """Return the bound."""
        return PublicKnowledge("clipping", {"norm": self.config.norm})
