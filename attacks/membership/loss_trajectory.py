"""Loss trajectory: how far an example's loss fell between earlier rounds and the last one.

    score(x) = mean over earlier watched rounds t of loss(f_t, x) - loss(f_T, x)

Early models have memorised less, so their loss says how hard an example is: the federation itself provides what
`calibrated` trains shadow models for. That the course of the loss tells more than its end is the idea of Liu, Zhao,
Backes, Zhang 2022, arXiv 2208.14933; their learned classifier and distillation are left out. What it may leak: members
that a server or any client who kept the global models of some rounds can name without training anything.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.membership._signals import losses
from fedsim.core.hooks import IMAGES_AND_TEXT, MembershipAttack
from fedsim.core.registry import membership
from fedsim.core.types import Config, MembershipObservation, Modality


class LossTrajectoryConfig(Config):
    """The attack has no settings: `threat.rounds` says which models it sees."""


@final
@membership("loss-trajectory", summary="how far the loss fell since earlier watched rounds", paper="2208.14933")
class LossTrajectory(MembershipAttack[LossTrajectoryConfig]):
    """Scores by the fall of the loss over rounds."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse a single model."""
        if len(observation.weights) > 1:
            return None
        return "needs the global model of at least one round before the last: add it to threat.rounds"

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the mean earlier loss minus the last."""
        course = torch.stack([losses(observation, own, observation.candidates) for _, own in observation.weights])
        return course[:-1].mean(0) - course[-1]
