"""head-algebra: solve a linear top's equations for the errors of its outputs; the label has the only negative error.

Idea: the gradient at the cut is the output error times weights that the attacker knows.
Equation: U_A^T r = g_i and sum r = 0, r = p_i - e_y up to a factor; y = argmin r. Entries that dropout after
    concatenation zeroes give no equation.
Assumes: a linear top with known weights at each step; as many kept entries as classes less one.
Recovers: every label exactly, for any number of classes.
Fails: a top with hidden layers; fewer kept entries; noise in the gradients.
Source: the algebra of cross-entropy; after the label inference of Fu et al. 2022, USENIX Security.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutLabelAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


@final
@attack(
    "head-algebra",
    summary="labels exactly, by the equations of a known linear top",
    tier="core",
    related="Fu et al. 2022, USENIX Security",
)
class HeadAlgebra(CutLabelAttack[Config]):
    """Solves for the errors of the outputs."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"top"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return minus the error of each output, shape (N, classes)."""
        all_rows = torch.cat([step.rows for step in view.steps])
        errors = torch.zeros(int(all_rows.max()) + 1, view.classes, dtype=torch.double)
        for step in view.steps:
            weights = _linear(step.top).weight.detach()[:, slice(*view.place)].double()
            errors[step.rows] = output_errors(weights, step.down[view.party].double())
        return -errors[view.rows]


def output_errors(weights: Tensor, gradients: Tensor) -> Tensor:
    """Return the errors r with weights^T r = gradient on nonzero entries, and sum 0, shape (N, classes).

    Args:
        weights: the top's weights of the party's inputs, shape (classes, width).
        gradients: returned gradients of examples, shape (N, width).
    """
    scale = gradients.norm(dim=1, keepdim=True)
    gradients = torch.where(scale > 0, gradients / scale, 0.0)
    kept = (gradients != 0).double()
    equations = torch.cat([kept[:, :, None] * weights.T, torch.ones_like(weights.T[:1]).expand(len(kept), 1, -1)], 1)
    sides = torch.cat([gradients, gradients.new_zeros(len(kept), 1)], 1)
    return (torch.linalg.pinv(equations) @ sides[:, :, None])[:, :, 0]


def _linear(top: nn.Module | None) -> nn.Linear:
    """Return the only layer of a linear top.

    Raises:
        NotApplicable: the top is not linear.
    """
    layers = [] if top is None else [layer for layer in top.modules() if isinstance(layer, nn.Linear)]
    if len(layers) != 1:
        raise NotApplicable("its equations need a linear top. Set vertical.top = 'linear'")
    return layers[0]
