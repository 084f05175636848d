"""squared-norm: images are close to grey.

Idea: pixels far outside the usual range of images are unlikely.
Equation: |x|^2, in normalised units.
Fails: it shrinks contrast, so its weight must be small.
Source: Yin et al. 2021, arXiv 2104.07586.
"""

from __future__ import annotations

from typing import final

from attacks.core.matching.descent import Regulariser, VictimGroup
from attacks.core.matching.terms import Prior, PriorConfig
from fedsim.core.registry import prior


@final
@prior("squared-norm", summary="squared norm of the images", related="2104.07586")
class SquaredNorm(Prior[PriorConfig]):
    """Sums the squares of pixels."""

    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the squared norm of a row."""
        return lambda inputs, _masks, _rows: inputs.square().flatten(1).sum(1)
