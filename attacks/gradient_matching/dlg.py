"""Deep Leakage from Gradients (DLG): dummy images and dummy labels whose gradient lies closest to the observed one.

Paper: Zhu, Liu, Han 2019, arXiv 1906.08935: min over x, u of |g(x, softmax(u)) - g*|^2 by L-BFGS, x and u from N(0, 1),
u the logits of soft labels. A start that diverges is repeated, at most ten times. Threat model: honest-but-curious
server, one gradient; labels are unknowns even if they are granted (iDLG uses them).

Dropout: with known rates the masks are further unknowns, as logits; with unknown rates the search ignores dropout and
ends far from the gradient. Fails for ReLU, whose second derivative is zero, so that curvature is invisible; the record
notes it. Fails for batches of more than a few examples and for trained models.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Observation


class DlgConfig(LbfgsConfig):
    """Settings of DLG."""


@final
@attack("dlg", summary="squared gradient distance over images and labels, by L-BFGS (DLG)", paper="1906.08935")
class Dlg(LbfgsAttack[DlgConfig]):
    """Images and soft labels are the unknowns."""

    effort: ClassVar[Effort] = "reference"

    def known_labels(self, observation: Observation) -> Tensor | None:
        """No label is known."""
        return None
