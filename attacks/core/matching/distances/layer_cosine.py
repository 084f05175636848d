"""layer-cosine: the mean of the cosine distances of all tensors.

Idea: the direction of every layer's gradient has equal weight, including small gradients.
Equation: 1 - mean over tensors l of <g_l, g*_l> / (|g_l| |g*_l|).
Fails: tensors with noise as their gradient have the same weight as the others.
Source: Balunovic et al. 2022, arXiv 2202.08827.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.terms import Distance, DistanceConfig
from attacks.core.tolerances import TINY
from fedsim.core.registry import distance


@final
@distance("layer-cosine", summary="1 - mean cosine of all tensors", related="2202.08827")
class LayerCosineDistance(Distance[DistanceConfig]):
    """Compares directions tensor by tensor."""

    def measure(self, gradients: Gradients) -> Tensor:
        """Return 1 - the mean of cosines, shape (R,)."""
        norms = gradients.squared_norms().sqrt() * gradients.observed_squared_norms().sqrt()
        return 1.0 - (gradients.inner() / norms.clamp_min(TINY)).mean(1)
