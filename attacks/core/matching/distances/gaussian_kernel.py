"""gaussian-kernel: 1 - the Gaussian kernel of each tensor's difference, in a weighted mean over tensors.

Idea: a kernel saturates, so tensors with large errors do not dominate tensors with small errors; each tensor has its
    own width.
Equation: sum over tensors l of b^l (1 - exp(-|g_l - g*_l|^2 / (w |g*_l|^2))) / sum of b^l, in [0, 1], with w = `width`
    and b = `depth_decay`.
Fails: if every tensor has a large error: the kernel is flat, and its gradient vanishes.
Source: inspired by the abstract of Wang et al. 2020, arXiv 2009.06228 (SAPAG); widths and weights are chosen here.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.terms import Distance, DistanceConfig
from attacks.core.tolerances import TINY
from fedsim.core.registry import distance


class GaussianKernelConfig(DistanceConfig):
    """Settings of gaussian-kernel."""

    width: float = Field(default=1.0, gt=0, description="squared width w of the kernel, in squared norms of a tensor")
    depth_decay: float = Field(
        default=1.0, gt=0, le=1, description="ratio of a tensor's weight b to that of the tensor before it"
    )


@final
@distance("gaussian-kernel", summary="1 - Gaussian kernel of each tensor's difference", related="2009.06228")
class GaussianKernelDistance(Distance[GaussianKernelConfig]):
    """Compares tensor by tensor, with a bounded effect of large errors."""

    def measure(self, gradients: Gradients) -> Tensor:
        """Return the weighted mean over tensors, shape (R,)."""
        squares = gradients.difference() / gradients.observed_squared_norms().clamp_min(TINY)
        weights = self.config.depth_decay ** torch.arange(squares.shape[1]).to(squares)
        return (1.0 - (-squares / self.config.width).exp()) @ (weights / weights.sum())
