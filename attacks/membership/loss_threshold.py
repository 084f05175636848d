"""Loss threshold: what the model was trained on it fits better.

    score(x) = -loss(x)

Paper: Yeom, Giacomelli, Fredrikson, Jha 2018, arXiv 1709.01604, adversary 1. A threshold on this score guesses; the
scorer tries every threshold. What it may leak: it finds out that a model overfits, but takes easy examples for members
and misses hard ones, so it is weak where false alarms must be rare.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.membership._signals import losses
from fedsim.core.hooks import IMAGES_AND_TEXT, MembershipAttack
from fedsim.core.registry import membership
from fedsim.core.types import Config, MembershipObservation, Modality


class LossThresholdConfig(Config):
    """The attack has no settings."""


@final
@membership(
    "loss-threshold",
    summary="examples with a small loss are members; the simplest attack",
    paper="1709.01604",
    aliases=("yeom",),
)
class LossThreshold(MembershipAttack[LossThresholdConfig]):
    """Scores by the final model's loss."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return minus the loss."""
        _, final_weights = observation.weights[-1]
        return -losses(observation, final_weights, observation.candidates)
