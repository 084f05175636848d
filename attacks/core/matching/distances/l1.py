"""l1: squared and absolute differences, with weights that may decay with depth.

Idea: absolute differences still have a slope near the minimum, where the slope of squares vanishes.
Equation: sum over tensors l of b^l (w |g_l - g*_l|_2^2 + a |g_l - g*_l|_1), with w = `squared_weight`, a =
    `absolute_weight`, b = `depth_decay`; w = 0 leaves absolute differences alone.
Fails: explicit gradients are needed, one row after the other, which is slower.
Source: Deng et al. 2021, arXiv 2103.06819.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.comparison import ExplicitGradients
from attacks.core.matching.terms import Distance, DistanceConfig
from fedsim.core.registry import distance


class L1Config(DistanceConfig):
    """Settings of l1."""

    squared_weight: float = Field(default=1.0, ge=0, description="weight w of the squared differences")
    absolute_weight: float = Field(default=0.01, ge=0, description="weight a of the absolute differences")
    depth_decay: float = Field(
        default=1.0, gt=0, le=1, description="ratio of a tensor's weight to that of the tensor before it"
    )


@final
@distance("l1", summary="squared and absolute differences (TAG's)", related="2103.06819")
class L1Distance(Distance[L1Config]):
    """Compares entry by entry."""

    reads_entries = True

    def measure(self, gradients: ExplicitGradients) -> Tensor:
        """Return the weighted sum of differences, shape (R,)."""
        squared = gradients.difference()
        absolute = gradients.absolute(squared.new_ones(len(squared)))
        weights = self.config.depth_decay ** torch.arange(squared.shape[1], device=squared.device)
        return ((self.config.squared_weight * squared + self.config.absolute_weight * absolute) * weights).sum(1)
