"""cut-line: infer two classes from a line: under a linear top all gradients of a step are collinear.

Idea: g_i = (p_i - y_i) u with the same u for all i, so the sign of the coefficient is the label, up to a global flip.
    Dropout after concatenation zeroes entries, but the kept entries keep their signs.
Equation: the first singular vector of a step's gradients, with the sign of the previous step; with exact zeros
    sign(g_ij) = s_i t_j, solved by propagating signs over examples and coordinates that share an entry.
Assumes: two classes, a linear top; a known label of each, which resolves the flip.
Recovers: every label exactly, however well the model is trained; under dropout of each example that keeps an entry.
Fails: a non-linear top bends the line; noise of a tenth of the longest gradient; max-norm.
Source: the algebra of binary cross-entropy; after the cosine of Li et al. 2022, arXiv 2102.08504.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.vertical._directions import check_known, signed_scores
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutLabelAttack, check_two_classes
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


@final
@attack("cut-line", summary="two labels exactly, by the line that gradients lie on", tier="core", related="2102.08504")
class CutLine(CutLabelAttack[Config]):
    """Infers the side of the line step by step."""

    reads: ClassVar[Evidence] = "gradients"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"few-labels"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return scores of both classes, shape (N, 2); an example without kept entries has score 0."""
        check_two_classes(view)
        check_known(view)
        all_rows = torch.cat([step.rows for step in view.steps])
        sides = torch.zeros(int(all_rows.max()) + 1, dtype=torch.double)
        sides[all_rows] = torch.cat(list(_sides_of_steps([step.down[view.party] for step in view.steps])))
        return signed_scores(sides[view.rows], sides[view.known_rows], view.labels)


def _sides_of_steps(gradients: list[Tensor]) -> Iterator[Tensor]:
    """Yield the side of each example of each step, with consistent signs over steps."""
    is_masked = bool((torch.cat(gradients) == 0).any())
    before = torch.zeros(gradients[0].shape[1], dtype=torch.double)
    for step in gradients:
        sides, line = spread_signs(step) if is_masked else along_line(step)
        turned = line @ before < 0
        before = -line if turned else line
        yield -sides if turned else sides


def along_line(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinate of each gradient along their line, shape (N,), and its direction, shape (width,)."""
    line = torch.linalg.svd(gradients, full_matrices=False).Vh[0]
    return gradients @ line, line


def spread_signs(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return signs of examples (N,) and of coordinates (width,) with products equal to the gradients' signs.

    Signs propagate from the example with the most nonzero entries; examples and coordinates that are not connected to
    it by
    shared entries get sign 0. Conflicting entries are resolved in favour of the larger entries.
    """
    rows, columns = gradients.new_zeros(len(gradients)), gradients.new_zeros(gradients.shape[1])
    rows[(gradients != 0).sum(1).argmax()] = 1.0
    reached = -1
    while reached < (reached := int((rows != 0).sum() + (columns != 0).sum())):
        columns = (gradients.T @ rows).sign()
        rows = (gradients @ columns).sign()
    return rows, columns
