"""public-cuts: restrict thresholds to quantiles of public rows.

Idea: every value is rounded down to a cut from public rows; a tree then splits only at cuts.
Equation: x -> max {c : c <= x} over quantiles c of a column of the public rows, or the lowest c if none is.
Assumes: all clients hold the same public rows. At a prediction x < c compares as before.
Protects: values: thresholds are no values of the client's rows.
Fails: counts and label sums stay exact.
Source: this project.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import TreeDefense


class PublicCutsConfig(Config):
    """Settings of public-cuts."""

    cuts: int = Field(default=32, ge=2, description="of each column")


@final
@defense("public-cuts", summary="thresholds of sent trees come from public rows", tier="core")
class PublicCuts(TreeDefense[PublicCutsConfig]):
    """Rounds values down to public cuts."""

    def prepare(self, rows: Tensor, public: Tensor) -> Tensor:
        """Return the rounded rows, shape (N, D)."""
        shares = torch.linspace(0, 1, self.config.cuts, dtype=public.dtype)
        cuts = public.quantile(shares, 0, interpolation="lower").T.contiguous()
        place = torch.searchsorted(cuts, rows.to(public.dtype).T.contiguous(), right=True) - 1
        return cuts.gather(1, place.clamp_min(0)).T
