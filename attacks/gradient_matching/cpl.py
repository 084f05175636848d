"""Client Privacy Leakage (CPL): L-BFGS from a patterned start, pulled towards images that the model gives their label.

Paper: Wei et al. 2020, arXiv 2004.10397: min over x of |g(x, y) - g*|^2 + a |F(x) - onehot(y)|^2 with the class
probabilities F, from a small random square tiled over the image, the label from the gradient. Threat model:
honest-but-curious server, one gradient; granted labels are used. A start ends when its objective no longer falls.

Dropout: with known rates the masks are further unknowns, as logits; with unknown rates the search ignores dropout.
Fails where DLG fails: ReLU, large batches. The second term is not zero at the truth unless the model is sure of it.
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.core.labels import labels_of
from attacks.core.starts import Start
from attacks.gradient_matching._comparison import Setting
from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.registry import attack
from fedsim.core.types import Masks, Observation


class CplConfig(LbfgsConfig):
    """Settings of CPL."""

    start: Start = Field(
        default="patterned", description="normal: noise; patterned: a tiled random square; colour: one; grey: zeros"
    )
    label_weight: float = Field(default=0.01, ge=0, description="weight a of the squared error of the probabilities")


@final
@attack("cpl", summary="L-BFGS from a patterned start with a label term (CPL)", paper="2004.10397")
class Cpl(LbfgsAttack[CplConfig]):
    """Images are the unknowns; the label also pulls at the output."""

    def known_labels(self, observation: Observation) -> Tensor | None:
        """Return granted or inferred labels."""
        return labels_of(observation, self.config.label_rule)

    def penalty(self, setting: Setting, inputs: Tensor, masks: Masks, labels: Tensor) -> Tensor | float:
        """Return a |F(x) - onehot(y)|^2 under the masks of the search."""
        if self.config.label_weight == 0.0:
            return 0.0
        probabilities = setting.outputs(inputs, masks, {}).softmax(1)
        wanted = F.one_hot(labels, probabilities.shape[1]).to(probabilities)
        return self.config.label_weight * (probabilities - wanted).square().sum()
