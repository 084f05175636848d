"""cut-line: read two classes off a line: under a linear top all gradients of a step lie on one.

Idea: g_i = (p_i - y_i) u with one u for all, so the side of the line is the label, up to one flip. Under dropout behind
    concatenation entries are missing, but those that are left keep their signs.
Equation: the first singular vector of a step's gradients, turned like the step's before; with exact zeros
    sign(g_ij) = s_i t_j, solved by spreading signs over examples and coordinates that share an entry.
Assumes: two classes, a linear top; a known label of each, which settles the flip.
Recovers: every label exactly, however well the model is trained; under dropout of each example that keeps an entry.
Fails: a non-linear top bends the line; noise of a tenth of the longest gradient; max-norm.
Source: the algebra of binary cross-entropy; after the cosine of Li et al. 2022, arXiv 2102.08504.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.cut_labels._directions import check_known, signed_scores
from fedsim.core.hooks.cut import CutLabelAttack, check_two_classes
from fedsim.core.registry import evidence_attack
from fedsim.core.types import Config
from fedsim.core.types.cut import CutKnowledge, CutView, Evidence


@final
@evidence_attack("cut-line", summary="two labels exactly, by the line that gradients lie on", related="2102.08504")
class CutLine(CutLabelAttack[Config]):
    """Takes sides of a line step by step."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return scores of both classes, shape (N, 2); an example that kept no entry is on neither side."""
        check_two_classes(view)
        check_known(view)
        every = torch.cat([step.rows for step in view.steps])
        sides = torch.zeros(int(every.max()) + 1, dtype=torch.double)
        sides[every] = torch.cat(list(_sides_of_steps([step.down[view.party] for step in view.steps])))
        return signed_scores(sides[view.rows], sides[view.known], view.labels)


def _sides_of_steps(gradients: list[Tensor]) -> Iterator[Tensor]:
    """Yield the side of each example of each step, all steps turned alike."""
    is_masked = bool((torch.cat(gradients) == 0).any())
    before = torch.zeros(gradients[0].shape[1], dtype=torch.double)
    for step in gradients:
        sides, line = spread_signs(step) if is_masked else along_line(step)
        turned = line @ before < 0
        before = -line if turned else line
        yield -sides if turned else sides


def along_line(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far along their line gradients lie, shape (N,), and its direction, shape (width,)."""
    line = torch.linalg.svd(gradients, full_matrices=False).Vh[0]
    return gradients @ line, line


def spread_signs(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return signs of examples, shape (N,), and of coordinates, shape (width,), whose products are the gradients'.

    It starts at the example with the most entries that are not zero; what shares no entry with it, over however many
    others, has sign 0. Where entries disagree, the larger ones decide.
    """
    rows, columns = gradients.new_zeros(len(gradients)), gradients.new_zeros(gradients.shape[1])
    rows[(gradients != 0).sum(1).argmax()] = 1.0
    reached = -1
    while reached < (reached := int((rows != 0).sum() + (columns != 0).sum())):
        columns = (gradients.T @ rows).sign()
        rows = (gradients @ columns).sign()
    return rows, columns
