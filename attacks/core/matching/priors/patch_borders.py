"""patch-borders: pixels on both sides of a border between patches are alike.

Idea: the gradient of a transformer hardly determines the positions of its patches; the continuity of their borders
    does.
Equation: sum over borders of |x_in - x_out|.
Fails: models without a patch projection.
Source: Hatamizadeh et al. 2022, arXiv 2203.11894.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from attacks.core.matching.descent import Regulariser, VictimGroup
from attacks.core.matching.terms import Prior, PriorConfig
from attacks.core.patches import Patches, patch_projection
from attacks.core.tolerances import TINY
from fedsim.core.registry import prior
from fedsim.core.types import Observation


@final
@prior("patch-borders", summary="patches fit to their neighbours", related="2203.11894")
class PatchBorders(Prior[PriorConfig]):
    """Compares pixels across the borders of the model's patches."""

    def left_out(self, observation: Observation) -> str | None:
        """Require patches."""
        return None if patch_projection(observation) is not None else "no layer projects patches of the image"

    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the differences across all borders."""
        first = victims.observations[0]
        patches = patch_projection(first)
        assert patches is not None, "such models are left out"
        rows, columns = _starts(patches, first.spec.shape)
        return lambda inputs, _masks, _rows: border_differences(inputs, rows, columns)


def border_differences(inputs: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return the sum of the norms of differences across patch borders, shape (R,).

    Args:
        inputs: shape (R, B, C, H, W).
        rows: first rows of patches, without the upper edge of the image.
        columns: first columns of patches, without the left edge of the image.
    """
    row_steps = [inputs[..., row, :] - inputs[..., row - 1, :] for row in rows]
    column_steps = [inputs[..., column] - inputs[..., column - 1] for column in columns]
    norms = [difference.flatten(1).square().sum(1).clamp_min(TINY).sqrt() for difference in (*row_steps, *column_steps)]
    return torch.stack(norms).sum(0) if norms else inputs.new_zeros(len(inputs))


def _starts(patches: Patches, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    height, width = shape[-2:]
    first = patches.pixels.amin(1) % (height * width)
    rows, columns = (first // width).unique().tolist(), (first % width).unique().tolist()
    return [row for row in rows if row], [column for column in columns if column]
