"""cosine: a single cosine over all parameters.

Idea: the length of a gradient shows how well the model fits a batch, its direction the batch itself. Only the direction
    is compared.
Equation: 1 - <g, g*> / (|g| |g*| + 1e-8), in [0, 2].
Fails: if the length of the gradient carries information, such as the level of noise.
Source: Geiping et al. 2020, arXiv 2003.14053, equation 4.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.optimizers import EPSILON
from attacks.core.matching.terms import Distance, DistanceConfig
from fedsim.core.registry import distance


@final
@distance("cosine", summary="1 - cosine of whole gradients", paper="2003.14053")
class CosineDistance(Distance[DistanceConfig]):
    """Compares directions of whole gradients."""

    def measure(self, gradients: Gradients) -> Tensor:
        """Return 1 - cosine, shape (R,)."""
        norms = gradients.squared_norms().sum(1).sqrt() * gradients.observed_squared_norms().sum(1).sqrt()
        return 1.0 - gradients.inner().sum(1) / (norms + EPSILON)
