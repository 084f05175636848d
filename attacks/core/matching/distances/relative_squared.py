"""relative-squared: the mean over tensors of squared distances, each relative to the observed tensor.

Idea: tensors of any size have equal weight, and their lengths count too.
Equation: mean over tensors l of |g_l - g*_l|^2 / |g*_l|^2.
Fails: a tensor with an observed gradient near zero dominates the others.
Source: after Deng et al. 2021, arXiv 2103.06819.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.terms import Distance, DistanceConfig
from fedsim.core.registry import distance


@final
@distance("relative-squared", summary="squared distances of all tensors, relative to their size", related="2103.06819")
class RelativeSquaredDistance(Distance[DistanceConfig]):
    """Compares tensor by tensor, in units of the observed tensor."""

    def measure(self, gradients: Gradients) -> Tensor:
        """Return the mean of relative squared distances, shape (R,)."""
        observed = gradients.observed_squared_norms()
        return (gradients.difference() / observed.clamp_min(torch.finfo(observed.dtype).tiny)).mean(1)
