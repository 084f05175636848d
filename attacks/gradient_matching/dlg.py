"""dlg: search images and soft labels whose gradient equals the observed gradient (Deep Leakage from Gradients, DLG).

Idea: an input with the same gradient as the client's is, for small networks and batches, the client's input. L-BFGS
    searches it from normal noise, and restarts after divergence, at most `restarts` times.
Equation: min over x, u of |g(x, softmax(u)) - g*|^2, with u the logits of the soft labels and g* the observed gradient.
Assumes: honest-but-curious server, a single gradient. Labels are unknowns even if they are granted (idlg uses them).
    Dropout masks of known rates are further unknowns, as logits; with unknown rates the search ignores dropout.
Recovers: images, labels, and dropout masks of known rates.
Fails: ReLU, whose second derivative is zero (the record notes it); dropout at unknown rates; batches of more than a few
    examples; trained models.
Source: Zhu, Liu, Han 2019, arXiv 1906.08935, equation 4.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.registry import attack
from fedsim.core.types import Observation


@final
@attack(
    "dlg",
    summary="squared gradient distance over images and labels, by L-BFGS (DLG)",
    tier="baseline",
    paper="1906.08935",
    fidelity="variant",
    deviates="dropout masks of known rates are unknowns too; diverged starts restart",
    paper_steps=(
        (
            "joint search for images and soft labels by L-BFGS",
            "attacks.gradient_matching._lbfgs.LbfgsAttack.search",
            "test_it_finds_the_label_with_the_image_and_asks_for_none",
        ),
    ),
)
class Dlg(LbfgsAttack[LbfgsConfig]):
    """Searches images and soft labels."""

    def known_labels(self, observation: Observation) -> Tensor | None:
        """Return None: the labels are unknowns of the search."""
        return None
