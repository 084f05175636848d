"""label-shifts: score an image by the number of its shifted copies with the right label.

Idea: a model memorises its training images at their position and at small shifts; labels alone show that.
Equation: score(x) = sum over shifts (a, b) with |a| + |b| <= d of [f(x shifted by a, b) = y]; shifts replicate the
    image's edge.
Assumes: predicted labels of the final model, 2 d (d + 1) + 1 queries for each candidate.
Recovers: a score for each candidate.
Fails: models trained on shifted images, which memorise all shifts; models that do not overfit; scores tie.
Source: Choquette-Choo, Tramer, Carlini, Papernot 2021, arXiv 2007.14321, section 4.2; they let a classifier learn from
    shadow models which shifts matter, here all count alike.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.membership._labels import explain_missing_classes, is_right
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation

_SPATIAL = 4  # dimensions of a batch of images


class LabelShiftsConfig(Config):
    """Settings of the attack."""

    distance: int = Field(default=1, ge=1, description="d, pixels; rows and columns together")


@final
@attack(
    "label-shifts",
    summary="labels that survive shifts mean a member",
    tier="research",
    paper="2007.14321",
    fidelity="variant",
    deviates="all shifts count alike; no classifier learns from shadow models",
    paper_steps=(
        ("labels of shifted images", "LabelShifts.score"),
        ("classifier of the labels, from shadow models", ""),
    ),
)
class LabelShifts(MembershipAttack[LabelShiftsConfig]):
    """Scores by the number of shifted copies with the right label."""

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse examples that are not images, and labels that are not classes."""
        if observation.candidates.inputs.dim() != _SPATIAL:
            return "shifts pictures, and these examples have no rows and columns"
        return explain_missing_classes(observation)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the number of shifted copies with the right label."""
        far = self.config.distance
        inputs = observation.candidates.inputs
        height, width = inputs.shape[-2:]
        wide = F.pad(inputs, (far,) * 4, mode="replicate")
        score = torch.zeros(len(inputs), dtype=torch.double)
        for row_shift in range(-far, far + 1):
            for right in range(abs(row_shift) - far, far - abs(row_shift) + 1):
                top, left = far - row_shift, far - right
                score += is_right(observation, wide[..., top : top + height, left : left + width])
        return score
