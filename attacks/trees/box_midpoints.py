"""box-midpoints: guess each row of a client as the midpoint of its box.

Idea: without further knowledge the midpoint of an interval is the best guess of a value in it.
Equation: x = (max(low, least public value) + min(high, greatest public value)) / 2 in each column.
Assumes: as `boxes`; ranges of columns are public.
Recovers: values where trees split often.
Fails: columns with few splits: the midpoint of the range is far from most rows.
Source: Di Gennaro et al. 2025, arXiv 2506.07605 (TimberStrike).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from attacks.trees._groups import BoxSearchConfig, draw, follow, search
from fedsim.core.registry import attack
from fedsim.questions.trees.hooks import RowAttack
from fedsim.questions.trees.types import RowBoxes, TreesView


@final
@attack(
    "box-midpoints",
    summary="a client's rows as the middles of their boxes",
    tier="core",
    paper="2506.07605",
    fidelity="variant",
    deviates="boxes come of groups of rows; no categories",
    paper_steps=(("midpoints of the boxes", "_middles"),),
)
class BoxMidpoints(RowAttack[BoxSearchConfig]):
    """Computes midpoints of boxes."""

    def search(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the rows, shape (N, columns)."""
        return _middles(search(view, self.config.tries, self.config.nodes, generator), view.public)

    def search_blindly(self, view: TreesView, generator: torch.Generator) -> Tensor:
        """Return the guess from random leaf assignments in later trees."""
        return _middles(follow(view, draw(generator))[0], view.public)


def _middles(boxes: RowBoxes, public: Tensor) -> Tensor:
    return (boxes.low.maximum(public.amin(0)) + boxes.high.minimum(public.amax(0))) / 2
