"""cut-norm: infer two classes by the norm of the returned gradient.

Idea: an uncertain model gets larger gradients from the class that it expects less, so the rarer class has larger norms.
Equation: |g_i| = |p_i - y_i| |u_i|; score log |g_i| - m, m the midpoint of the mean log norms of the known examples of
    both classes.
Assumes: two classes; a few known labels, which give the class with larger norms and the threshold.
Recovers: labels in the first epochs, while the model's probability is far from one half.
Fails: fitted examples, where the norm shows the fit and not the class; max-norm and Marvell.
Source: Li et al. 2022, arXiv 2102.08504, section 3 (norm); the threshold is chosen here.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.vertical._directions import check_known
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutLabelAttack, check_two_classes
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


@final
@attack(
    "cut-norm",
    summary="two labels by the length of the gradient at the cut",
    tier="core",
    paper="2102.08504",
    fidelity="variant",
    deviates="known labels set the threshold; the AUC is reported too",
    paper_steps=(("labels from the norms of returned gradients", "CutNorm.search"),),
)
class CutNorm(CutLabelAttack[Config]):
    """Compares gradient norms."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return scores of both classes, shape (N, 2)."""
        check_two_classes(view)
        check_known(view)
        lengths, known = (self._lengths(view, rows) for rows in (view.rows, view.known_rows))
        means = [known[view.labels == label].mean() for label in range(view.classes)]
        margins = (lengths - (means[0] + means[1]) / 2) * (1.0 if means[1] >= means[0] else -1.0)
        return torch.stack([-margins, margins], 1)

    @staticmethod
    def _lengths(view: CutView, rows: Tensor) -> Tensor:
        return view.received_gradients(rows).norm(dim=1).clamp_min(torch.finfo(torch.double).tiny).log()
