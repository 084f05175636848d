"""boxes: bound each row of a client by one leaf of each of its trees.

Idea: a row lies in the intersection of its leaves' boxes, and sums over leaves determine the intersections.
Equation: integers n(group, leaf) >= 0 with given sums over leaves that minimise sum |G - sum g n| + |H - sum h n|,
    tree after tree; g = sigmoid(m) - y, h = s (1 - s), m the margin so far. Groups start as leaves of the first tree.
Assumes: log loss; the server sees each client's trees and all trees that they build on.
Recovers: an interval for every column of every row, and its label.
Fails: many trees of others between two of the client's; sums that several assignments fit; stripped covers.
Source: Di Gennaro et al. 2025, arXiv 2506.07605 (TimberStrike), which assigns single rows.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from attacks.trees._groups import BoxSearchConfig, draw, follow, search
from fedsim.core.registry import attack
from fedsim.questions.trees.hooks import BoxAttack
from fedsim.questions.trees.types import TreesView


@final
@attack(
    "boxes",
    summary="an interval for every column of a client's rows",
    tier="core",
    paper="2506.07605",
    fidelity="variant",
    deviates="groups of rows, several tries, and no value is guessed",
    paper_steps=(
        ("assignment of rows to leaves, tree by tree", "attacks.trees._groups.follow"),
        ("search over several trees", "BoxSearch.search"),
    ),
)
class BoxSearch(BoxAttack[BoxSearchConfig]):
    """Solves an assignment problem per tree."""

    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return label, lower and exclusive upper bounds of each row, shape (N, 1 + 2 columns)."""
        return search(view, self.config.tries, self.config.nodes, generator).to_tensor()

    def search_blindly(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the result of random leaf assignments in later trees."""
        return follow(view, draw(generator))[0].to_tensor()
