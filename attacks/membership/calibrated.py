"""Difficulty calibration: how much smaller the loss is than the example's difficulty explains.

    score(x) = mean over shadow models g of loss(g, x) - loss(f, x)

Paper: Watson, Guo, Cormode, Sablayrolles 2021, arXiv 2111.08440. The shadow models saw none of the
candidates. What it may leak: members that are hard for everybody but not for this model.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._signals import losses
from fedsim.core.hooks import IMAGES_AND_TEXT, MembershipAttack
from fedsim.core.registry import membership
from fedsim.core.types import Config, MembershipObservation, Modality, ShadowPlan


class CalibratedConfig(Config):
    """Settings of the attack."""

    shadows: int = Field(default=8, ge=2, multiple_of=2, description="shadow models, without the candidates")


@final
@membership(
    "calibrated", summary="the loss, less what shadow models without the example lose on it", paper="2111.08440"
)
class Calibrated(MembershipAttack[CalibratedConfig]):
    """Scores by the loss relative to that of shadow models."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def plan(self) -> ShadowPlan:
        """Return shadow models that saw no candidate."""
        return ShadowPlan(self.config.shadows, with_candidates=False)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the shadow models' mean loss minus the model's."""
        candidates = observation.candidates
        _, final_weights = observation.weights[-1]
        difficulty = [losses(observation, own.weights, candidates) for own in observation.shadows[self.plan()]]
        return torch.stack(difficulty).mean(0) - losses(observation, final_weights, candidates)
