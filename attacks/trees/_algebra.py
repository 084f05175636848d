"""Compute sums over the rows of a leaf from its value and cover."""

from __future__ import annotations

import math

from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.questions.trees.types import SentModel, Tree, TreesView


def sums(tree: Tree, view: TreesView) -> tuple[Tensor, Tensor]:
    """Return the sums of first and second derivatives over each leaf's rows, G = -w (H + lambda) and H, shape (L,).

    Raises:
        NotApplicable: covers were stripped.
    """
    if tree.cover is None:
        raise NotApplicable("covers of the trees were stripped, and without them leaf values give no sums")
    cover, value = tree.cover[tree.leaves], tree.value[tree.leaves].double()
    return -value / view.eta * (cover + view.penalty), cover


def leaf_counts(model: SentModel, view: TreesView) -> tuple[Tensor, Tensor]:
    """Return the number of rows of each leaf of the first tree, and the sum of their labels, shape (L,) each.

    Raises:
        NotApplicable: covers were stripped, or the tree builds on other clients' trees.
    """
    if view.client not in view.rounds[0]:
        raise NotApplicable("the client's first tree builds on others' trees, so that its rows start from many margins")
    gradients, cover = sums(model.trees[0], view)
    if view.objective == "reg:squarederror":
        return cover.round(), cover * model.base - gradients
    rows = cover / (model.base * (1 - model.base))
    return rows.round(), (rows * model.base - gradients).round()


def logit(probability: float) -> float:
    """Return the log odds of a probability in (0, 1)."""
    return math.log(probability / (1 - probability))
