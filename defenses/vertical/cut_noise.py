"""cut-noise: add Gaussian noise to every returned gradient at the cut.

Idea: an attack infers a label from the direction of a single gradient; noise of the largest gradient's norm blurs it.
Equation: g_i + n_i, n_i ~ N(0, (s max_j |g_j| / sqrt(d))^2 I), so that the norm of n_i is about s max_j |g_j|.
Assumes: the label party privatises the returned gradients.
Protects: labels against an attack on a single message; no guarantee, and epochs average it.
Fails: a small s: short gradients are hidden well, long gradients hardly.
Source: Li et al. 2022, arXiv 2102.08504, section 4 (isotropic noise, iso).
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutDefense


class CutNoiseConfig(Config):
    """Settings of cut-noise."""

    scale: float = Field(default=1.0, ge=0, description="s: the noise's length over that of the longest gradient")


@final
@defense("cut-noise", summary="Gaussian noise on gradients at the cut", tier="core", related="2102.08504")
class CutNoise(CutDefense[CutNoiseConfig]):
    """Adds isotropic noise."""

    def perturb_gradients(self, gradients: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the gradients with noise, shape (B, width)."""
        deviation = self.config.scale * gradients.norm(dim=1).max() / gradients.shape[1] ** 0.5
        return gradients + deviation * torch.randn(gradients.shape, generator=generator, dtype=gradients.dtype)
