"""total-variation: neighbouring pixels are alike.

Idea: noise has large differences between neighbours, and images have few.
Equation: mean |x_(i,j+1) - x_(i,j)| + mean |x_(i+1,j) - x_(i,j)|, anisotropic.
Fails: fine texture, which it smooths; examples that are not images.
Source: Rudin, Osher, Fatemi 1992, Physica D 60; Geiping et al. 2020, arXiv 2003.14053, section 4.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.descent import Regulariser, VictimGroup
from attacks.core.matching.terms import Prior, PriorConfig
from fedsim.core.registry import prior
from fedsim.core.types import Observation

_IMAGE = 3  # dimensions of an example


class TotalVariationConfig(PriorConfig):
    """Settings of total variation."""

    border: Literal["free", "zeros"] = Field(
        default="free",
        description="`zeros` also counts from the last row and column to zeros beyond, as the package breaching does",
    )


@final
@prior("total-variation", summary="neighbouring pixels are alike", related="2003.14053")
class TotalVariation(Prior[TotalVariationConfig]):
    """Averages the absolute differences of neighbouring pixels."""

    def left_out(self, observation: Observation) -> str | None:
        """Require images."""
        return None if len(observation.spec.shape) >= _IMAGE else "the examples are not images"

    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the total variation."""
        padding = 1 if self.config.border == "zeros" else 0
        return lambda inputs, _masks, _rows: total_variation(inputs, padding)


def total_variation(inputs: Tensor, padding: int = 0) -> Tensor:
    """Return the anisotropic total variation, shape (R,): mean absolute differences, both directions added.

    0 for inputs that are not images.

    Args:
        inputs: shape (R, B, C, H, W).
        padding: rows and columns of zeros after the last row and column.
    """
    if inputs.ndim < 5:  # noqa: PLR2004 - (R, B, C, H, W)
        return inputs.new_zeros(len(inputs))
    column_steps = torch.diff(torch.nn.functional.pad(inputs, (0, padding)), dim=-1)
    row_steps = torch.diff(torch.nn.functional.pad(inputs, (0, 0, 0, padding)), dim=-2)
    return column_steps.abs().flatten(1).mean(1) + row_steps.abs().flatten(1).mean(1)
