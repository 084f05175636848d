"""cut-direction: assign each example the class of the known gradient with the most similar direction.

Idea: the gradients at the cut point the same way for examples of one class, and another way for other classes.
Equation: score of class c = max over known examples j of class c of cos(g_i, g_j).
Assumes: at least one known example of each class.
Recovers: labels; with two classes under a linear top always, since their gradients lie on one line.
Fails: several classes under a trained non-linear top; dropout of most of the cut; noise; max-norm turns half of the
    gradients.
Source: Li et al. 2022, arXiv 2102.08504, section 3 (cosine); several classes are added here.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.vertical._directions import check_known, directions
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutLabelAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


@final
@attack(
    "cut-direction",
    summary="labels by the direction of the gradient at the cut",
    tier="core",
    paper="2102.08504",
    fidelity="variant",
    deviates="a reference of every class, so that several classes can be inferred",
    paper_steps=(("labels from the directions of returned gradients", "CutDirection.search"),),
)
class CutDirection(CutLabelAttack[Config]):
    """Compares gradient directions with those of known examples."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the largest cosine with a known example of each class, shape (N, classes)."""
        check_known(view)
        cosines = (
            directions(view.received_gradients(view.rows)) @ directions(view.received_gradients(view.known_rows)).T
        )
        return torch.stack([cosines[:, view.labels == label].amax(1) for label in range(view.classes)], 1)
