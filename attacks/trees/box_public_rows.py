"""box-public-rows: guess each row of a client as the public row that fits its box best.

Idea: columns depend on each other, and a real row has these dependencies while the midpoint of a box has not.
Equation: argmin over public rows with the same label of the number of violated bounds; then each value is moved to the
    nearest bound.
Assumes: as `boxes`; public rows of the same kind with their labels.
Recovers: values, most of which the public rows alone predict: compare with the baseline.
Fails: small public sets; wrong boxes.
Source: this project; boxes are those of Di Gennaro et al. 2025, arXiv 2506.07605.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from attacks.trees._groups import BoxSearchConfig, draw, follow, search
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.questions.trees.hooks import RowAttack
from fedsim.questions.trees.types import RowBoxes, TreesView


@final
@attack(
    "box-public-rows", summary="a client's rows as public rows that fit their boxes", tier="core", related="2506.07605"
)
class BoxPublicRows(RowAttack[BoxSearchConfig]):
    """Moves public rows into boxes."""

    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the rows, shape (N, columns)."""
        return _find_public_rows(search(view, self.config.tries, self.config.nodes, generator), view, generator)

    def search_blindly(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the guess from random leaf assignments in later trees."""
        return _find_public_rows(follow(view, draw(generator))[0], view, generator)


def _find_public_rows(boxes: RowBoxes, view: TreesView, generator: torch.Generator) -> Tensor:
    """Return the public row that violates the fewest bounds of each box, moved into it; ties are broken at random."""
    if len(view.public_labels.unique()) < len(boxes.labels.unique()):
        raise NotApplicable("no public row has any of the labels")
    is_outside = (view.public < boxes.low[:, None]) | (view.public >= boxes.high[:, None])
    broken = is_outside.sum(2) + torch.rand(is_outside.shape[:2], generator=generator)
    is_other_label = boxes.labels[:, None] != view.public_labels
    nearest = view.public[broken.masked_fill(is_other_label, torch.inf).argmin(1)]
    return nearest.maximum(boxes.low).minimum(boxes.high)
