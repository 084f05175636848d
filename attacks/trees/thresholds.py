"""thresholds: list the values at which a client's trees split.

Idea: with the histogram method a cut is a value of the rows, so a threshold is a raw cell of the client's table.
Equation: {(column, c)} over the splits of the client's trees.
Assumes: tree_method hist, xgboost's default, without public cuts.
Recovers: values that occur in a column; not their rows.
Fails: tree_method exact, whose thresholds are mostly midpoints; public cuts.
Source: Chen, Guestrin 2016, arXiv 1603.02754, section 3.2, as xgboost 3 implements it.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import ThresholdAttack
from fedsim.questions.trees.types import TreesView


@final
@attack("thresholds", summary="values of a client's table, which are the thresholds of its trees", tier="core")
class Thresholds(ThresholdAttack[Config]):
    """Reads splits."""

    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return column and value of each distinct split, shape (V, 2)."""
        trees = [tree for model in view.models for tree in model.trees]
        pairs = [torch.stack([tree.column.double(), tree.value.double()], 1)[tree.splits] for tree in trees]
        listed = torch.cat(pairs).unique(dim=0)
        if not len(listed):
            raise NotApplicable("none of the client's trees splits")
        return listed
