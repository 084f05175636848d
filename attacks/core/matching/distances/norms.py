"""norms: the distances of all tensors, added up.

Idea: the gradient of every layer counts, including layers with a small gradient.
Equation: sum over tensors l of |g_l - g*_l|, roots of at least 1e-30, so that they have a derivative.
Fails: its derivative does not fall towards the minimum, so a search converges only with shrinking steps.
Source: Hatamizadeh et al. 2022, arXiv 2203.11894.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.terms import Distance, DistanceConfig
from attacks.core.tolerances import TINY
from fedsim.core.registry import distance


@final
@distance("norms", summary="Euclidean distances of all tensors, added up", related="2203.11894")
class NormsDistance(Distance[DistanceConfig]):
    """Compares tensor by tensor."""

    def measure(self, gradients: Gradients) -> Tensor:
        """Return the sum of distances, shape (R,)."""
        return gradients.difference().clamp_min(TINY).sqrt().sum(1)
