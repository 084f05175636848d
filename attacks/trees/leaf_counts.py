"""leaf-counts: infer the rows and labels of each leaf of a first tree from its value and cover.

Idea: before the first tree all rows have the same margin, so sums of derivatives determine counts.
Equation: G = -w (H + lambda), w = value / eta. Log loss: N = H / (p (1 - p)), positives N p - G, p the base score.
    Squared error: N = H, sum of targets N base - G. A leaf with a single row gives its target.
Assumes: eta, lambda and the base score are known, set by the server or part of the JSON; no sampling of rows.
Recovers: counts and label sums, exactly.
Fails: stripped covers; later trees, whose rows have several margins.
Source: Chen, Guestrin 2016, arXiv 1603.02754, equation 5, solved for the sums.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from attacks.trees._algebra import leaf_counts
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.trees.hooks import LeafAttack
from fedsim.questions.trees.types import TreesView


@final
@attack(
    "leaf-counts", summary="rows and labels of each leaf of a first tree, exactly", tier="core", related="1603.02754"
)
class LeafCounts(LeafAttack[Config]):
    """Solves two equations per leaf."""

    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return rows and label sums of the leaves, shape (L, 2)."""
        return torch.stack(leaf_counts(view.first, view), 1)
