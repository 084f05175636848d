"""cut-norm: tell two classes by the length of the gradient that comes back.

Idea: an unsure model is pulled harder by the class that it expects less, so the rarer class has longer gradients.
Equation: |g_i| = |p_i - y_i| |u_i|; score log |g_i| - m, m the middle of the mean logarithms of the known examples of
    both classes.
Assumes: two classes; a few known labels, which say which class has the longer gradients, and where they part.
Recovers: labels in the first epochs, where the model's probability is far from one half.
Fails: once examples are fitted: then the length says how well, not which class; max-norm and Marvell.
Source: Li et al. 2022, arXiv 2102.08504, section 3 (norm); the threshold is chosen here.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.cut_labels._directions import check_known
from fedsim.core.hooks.cut import CutLabelAttack, check_two_classes
from fedsim.core.registry import evidence_attack
from fedsim.core.types import Config
from fedsim.core.types.cut import CutKnowledge, CutView, Evidence


@final
@evidence_attack(
    "cut-norm",
    summary="two labels by the length of the gradient at the cut",
    paper="2102.08504",
    fidelity="variant",
    deviates="known labels place the threshold, beside the AUC",
)
class CutNorm(CutLabelAttack[Config]):
    """Compares lengths."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return scores of both classes, shape (N, 2)."""
        check_two_classes(view)
        check_known(view)
        lengths, known = (self._lengths(view, rows) for rows in (view.rows, view.known))
        means = [known[view.labels == label].mean() for label in range(view.classes)]
        above = (lengths - (means[0] + means[1]) / 2) * (1.0 if means[1] >= means[0] else -1.0)
        return torch.stack([-above, above], 1)

    @staticmethod
    def _lengths(view: CutView, rows: Tensor) -> Tensor:
        return view.received(rows).norm(dim=1).clamp_min(torch.finfo(torch.double).tiny).log()
