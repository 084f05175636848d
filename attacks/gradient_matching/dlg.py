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

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from attacks.core.matching.attack import best_row
from attacks.core.matching.descent import RestartResult
from attacks.core.matching.unknowns import LABELS, Logits, Unknowns
from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.registry import attack
from fedsim.core.types import NO_LABEL, Observation, Reconstruction


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
            "attacks.gradient_matching._lbfgs.LbfgsAttack.run_search",
        ),
    ),
)
class Dlg(LbfgsAttack[LbfgsConfig]):
    """Searches images and soft labels."""

    def labels(self, observation: Observation) -> Tensor:
        """Return a placeholder: the labels are unknowns of the search."""
        return torch.full((self.dummies(observation),), NO_LABEL)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the logits of labels and masks."""
        shape = (self.dummies(observations[0]), observations[0].spec.classes)
        return Unknowns((Logits(LABELS, shape=shape), *super().unknowns(observations).blocks))

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the best reconstruction with its likeliest labels."""
        (logits,) = best_row(rows).extra_values[LABELS]
        return super().report(observation, rows, logits.argmax(1), path)
