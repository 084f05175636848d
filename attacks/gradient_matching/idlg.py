"""Improved DLG (iDLG): the label is read from the gradient first, then the image alone is searched as in DLG.

Paper: Zhao, Mopuri, Bilen 2020, arXiv 2001.02610: the row of the last layer's gradient that points against all others
belongs to the true class; then min over x of |g(x, y) - g*|^2 by L-BFGS. Threat model: honest-but-curious server, one
gradient; granted labels are used. Several examples: labels by the chosen rule.

Dropout: with known rates the masks are further unknowns, as logits; with unknown rates the search ignores dropout. The
label is exact either way. Fails where DLG fails: ReLU, large batches, trained models.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from attacks.core.labels import labels_of
from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Observation


class IdlgConfig(LbfgsConfig):
    """Settings of iDLG."""


@final
@attack("idlg", summary="label from the gradient, then the image as in DLG (iDLG)", paper="2001.02610")
class Idlg(LbfgsAttack[IdlgConfig]):
    """Images are the unknowns."""

    effort: ClassVar[Effort] = "reference"

    def known_labels(self, observation: Observation) -> Tensor | None:
        """Return granted or inferred labels."""
        return labels_of(observation, self.config.label_rule)
