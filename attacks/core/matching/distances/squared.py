"""squared: the squared Euclidean distance of whole gradients.

Idea: it is 0 at the client's data, and has derivatives of all orders, which second-order searches need.
Equation: |g - g*|^2.
Fails: large tensors dominate the others.
Source: Zhu, Liu, Han 2019, arXiv 1906.08935, equation 4.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.terms import Distance, DistanceConfig
from fedsim.core.registry import distance


@final
@distance("squared", summary="squared distance of whole gradients", paper="1906.08935")
class SquaredDistance(Distance[DistanceConfig]):
    """Compares all entries with equal weight."""

    def measure(self, gradients: Gradients) -> Tensor:
        """Return the squared distance, shape (R,)."""
        return gradients.difference().sum(1)
