"""esa: solve the equations of a linear model's predictions for the columns of another party.

Idea: each log ratio of a linear model's probabilities is a linear equation in all columns, and the attacker knows its
    own columns.
Equation: log p_k - log p_(k+1) = (w_k - w_(k+1)) x + b_k - b_(k+1), K - 1 equations in the unknown columns.
Assumes: a linear model on raw columns with known weights, the other columns, and the full probabilities.
Recovers: the columns exactly if they are at most as many as classes less one.
Fails: more columns: then the solution nearest to the mean of public examples; rounded probabilities.
Source: Luo et al. 2021, arXiv 2010.10152, section 4.1 (equality solving attack).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutFeatureAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


@final
@attack(
    "esa",
    summary="columns from a linear model's predictions, by their equations",
    tier="core",
    paper="2010.10152",
    fidelity="variant",
    deviates="where equations are too few it starts at the public mean",
    paper_steps=(("linear equations of the predictions", "Esa.search"),),
)
class Esa(CutFeatureAttack[Config]):
    """Solves the equations of predictions."""

    reads: ClassVar[Evidence] = "predictions"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"top", "columns"})
    uses: ClassVar[frozenset[CutKnowledge]] = frozenset({"public-data"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the columns, shape (N, *shape)."""
        layers = (
            [layer for layer in view.steps[0].top.modules() if isinstance(layer, nn.Linear)]
            if view.steps and view.steps[0].top
            else []
        )
        size = torch.Size(view.shape).numel()
        if len(layers) != 1 or view.width != size or view.predictions is None or view.columns is None:
            raise NotApplicable("it solves a linear model on raw columns. Set vertical.bottom = 'none', top = 'linear'")
        weights, bias = layers[0].weight.detach(), layers[0].bias.detach()
        is_theirs = torch.zeros(weights.shape[1], dtype=torch.bool)
        is_theirs[slice(*view.place)] = True
        start = torch.zeros(size).double() if view.public is None else view.public.flatten(1).mean(0)
        logits = view.predictions.clamp_min(torch.finfo(torch.double).tiny).log()
        residual = logits - bias - view.columns @ weights[:, ~is_theirs].T - weights[:, is_theirs] @ start
        equations = weights[:-1, is_theirs] - weights[1:, is_theirs]
        solved = (residual[:, :-1] - residual[:, 1:]) @ torch.linalg.pinv(equations).T
        return (start + solved).reshape(len(view.rows), *view.shape)
