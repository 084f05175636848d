"""label-dp: train on labels privatised by randomised response.

Idea: an exact attack recovers the labels used in training, so these are made deniable.
Equation: a label stays with probability e^eps / (e^eps + K - 1), and else becomes one of the other K - 1.
Assumes: the labels are privatised once, before training.
Protects: every label with eps-differential privacy, whatever is inferred from messages.
Fails: label information in the columns is not hidden; the accuracy falls with eps.
Source: Warner 1965; for training Ghazi et al. 2021, arXiv 2102.06062.
"""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutDefense


class LabelDpConfig(Config):
    """Settings of label-dp."""

    epsilon: float = Field(default=1.0, gt=0, description="of each label")


@final
@defense("label-dp", summary="randomised response on the labels that are trained on", tier="core", related="2102.06062")
class LabelDp(CutDefense[LabelDpConfig]):
    """Applies randomised response."""

    def relabel(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Return randomised labels, shape (N,), each unchanged with probability `kept_share`."""
        stays = torch.rand(len(labels), generator=generator, dtype=torch.double) < kept_share(
            self.config.epsilon, classes
        )
        wrong_labels = (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
        return torch.where(stays, labels, wrong_labels)


def kept_share(epsilon: float, classes: int) -> float:
    """Return the probability that a label is unchanged."""
    return 1 / (1 + (classes - 1) * math.exp(-epsilon))
