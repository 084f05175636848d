"""loss-threshold: score an example by the final model's loss; members have smaller losses.

Idea: a model fits its training examples better than others. The evaluation tries every threshold on the score.
Equation: score(x) = -loss(f, x), with f the final model.
Assumes: the final model's outputs, nothing more.
Recovers: a score for each candidate; it shows that a model overfits.
Fails: easy examples look like members and hard members are missed, so it is weak at low false-positive rates.
Source: Yeom, Giacomelli, Fredrikson, Jha 2018, arXiv 1709.01604, adversary 1.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.membership._signals import losses
from fedsim.core.hooks import ANY_LABELS, IMAGES_AND_TEXT
from fedsim.core.registry import attack
from fedsim.core.types import Config, LabelKind, Modality
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation


@final
@attack(
    "loss-threshold",
    summary="a small loss means a member; the simplest attack",
    tier="core",
    paper="1709.01604",
    fidelity="reproduction",
    paper_steps=(("loss of the final model as score", "LossThreshold.score"),),
    aliases=("yeom",),
)
class LossThreshold(MembershipAttack[Config]):
    """Scores by the final model's loss."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return minus the loss."""
        _, final_weights = observation.weights[-1]
        return -losses(observation, final_weights, observation.candidates)
