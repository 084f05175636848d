"""Independent noise on every gradient entry: g' = g + s z.

The oldest defense and the yardstick for the others. No differential privacy: nothing bounds the sensitivity.
Paper: Zhu, Liu, Han 2019, arXiv 1906.08935, section 5.1. Broken by averaging over rounds and by matching under the
noise law.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.hooks import Defense, Here, Place
from fedsim.registry import defense
from fedsim.types import Config, PublicKnowledge, Tensors


class GradientNoiseConfig(Config):
    """Settings of gradient noise."""

    scale: float = Field(default=1e-3, ge=0, description="standard deviation, in units of the gradient")
    law: Literal["gaussian", "laplace"] = "gaussian"


@final
@defense("gradient-noise", summary="independent noise on every gradient entry", paper="1906.08935")
class GradientNoise(Defense[GradientNoiseConfig]):
    """Adds fresh noise to the gradient of every local step."""

    place: ClassVar[Place] = "noise"

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the gradient plus noise of standard deviation `scale`."""
        return {name: g + self._noise(g, here.generator) for name, g in gradient.items()}

    def adaptive_view(self) -> PublicKnowledge:
        """Return the noise law and its scale."""
        return PublicKnowledge("gradient-noise", {"noise_law": self.config.law, "noise_scale": self.config.scale})

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        # Not empty_like: it would follow the gradient's layout in memory, and so would the order of the draws.
        blank = torch.empty(like.shape, dtype=like.dtype)
        if self.config.law == "gaussian":
            return self.config.scale * blank.normal_(generator=generator)
        magnitude = blank.clone().exponential_(generator=generator)
        sign = 2.0 * blank.bernoulli_(0.5, generator=generator) - 1.0
        return self.config.scale / 2**0.5 * sign * magnitude
