"""max-norm: scale each gradient at the cut by a random factor, so that all have the largest norm on average.

Idea: norms reveal classes; a random factor along the gradient makes their mean squares equal.
Equation: g_i (1 + z_i sqrt(max_j |g_j|^2 / |g_i|^2 - 1)), z_i ~ N(0, 1).
Assumes: the label party privatises the returned gradients.
Protects: labels against attacks on norms, and on directions if the factor is often negative; no guarantee.
Fails: the longest gradients stay unchanged, and the common line of the gradients stays visible.
Source: Li et al. 2022, arXiv 2102.08504, section 4 (max_norm).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutDefense


class MaxNormConfig(Config):
    """Settings of max-norm."""


@final
@defense("max-norm", summary="random factors make gradients at the cut equally long", tier="core", related="2102.08504")
class MaxNorm(CutDefense[MaxNormConfig]):
    """Scales gradients."""

    def perturb_gradients(self, gradients: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return each gradient times a random factor, shape (B, width); zero gradients stay zero."""
        squares = gradients.square().sum(1)
        missing = torch.where(squares > 0, squares.max() / squares - 1, 0.0).clamp_min(0).sqrt()
        factors = 1 + missing * torch.randn(len(gradients), generator=generator, dtype=gradients.dtype)
        return factors[:, None] * gradients
