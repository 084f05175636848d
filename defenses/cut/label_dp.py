"""label-dp: train on labels that are drawn anew with a known probability: randomised response.

Idea: what an exact attack reads is the label that was trained on, so that one had better be deniable.
Equation: a label stays with probability e^eps / (e^eps + K - 1), and else becomes one of the other K - 1.
Assumes: the labels are covered once, before the training.
Protects: every label with eps-differential privacy, whatever is read from messages.
Fails: what columns say of the label anyway; the accuracy falls with eps.
Source: Warner 1965; for training Ghazi et al. 2021, arXiv 2102.06062.
"""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.hooks.cut import CutDefense
from fedsim.core.registry import evidence_defense
from fedsim.core.types import Config


class LabelDpConfig(Config):
    """Settings of label-dp."""

    epsilon: float = Field(default=1.0, gt=0, description="of each label")


@final
@evidence_defense("label-dp", summary="randomised response on the labels that are trained on", related="2102.06062")
class LabelDp(CutDefense[LabelDpConfig]):
    """Draws labels anew."""

    def relabel(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Return labels of which each stays with the stated probability, shape (N,)."""
        stays = torch.rand(len(labels), generator=generator, dtype=torch.double) < kept_share(
            self.config.epsilon, classes
        )
        others = (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
        return torch.where(stays, labels, others)


def kept_share(epsilon: float, classes: int) -> float:
    """Return the probability that a label stays."""
    return 1 / (1 + (classes - 1) * math.exp(-epsilon))
