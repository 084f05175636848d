"""calibrated: score an example by how far its loss is below the loss of shadow models that did not see it.

Idea: some examples are hard for every model. The loss of shadow models measures this difficulty, and is subtracted.
Equation: score(x) = mean over shadow models g of loss(g, x) - loss(f, x), with f the final model.
Assumes: the final model, and data from the same population to train shadow models without any candidate.
Recovers: a score for each candidate; members that are hard for other models but not for this one.
Fails: models that do not overfit; shadow models that are trained otherwise than the clients, for example without their
    defenses.
Source: Watson, Guo, Cormode, Sablayrolles 2021, arXiv 2111.08440.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._signals import losses
from fedsim.core.hooks import ANY_LABELS, IMAGES_AND_TEXT
from fedsim.core.registry import attack
from fedsim.core.types import Config, LabelKind, Modality
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, ShadowPlan


class CalibratedConfig(Config):
    """Settings of the attack."""

    shadows: int = Field(
        default=8, ge=2, multiple_of=2, description="number of shadow models, trained without the candidates"
    )


@final
@attack(
    "calibrated",
    summary="loss of shadow models without the example minus the model's loss",
    tier="core",
    paper="2111.08440",
    fidelity="reproduction",
    paper_steps=(
        ("shadow models without the candidates", "Calibrated.plan"),
        ("mean loss of the shadow models minus the loss of the model", "Calibrated.score"),
    ),
)
class Calibrated(MembershipAttack[CalibratedConfig]):
    """Scores by the loss relative to the loss of shadow models."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS

    def plan(self) -> ShadowPlan:
        """Return shadow models trained without candidates."""
        return ShadowPlan(self.config.shadows, with_candidates=False)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the shadow models' mean loss minus the model's."""
        candidates = observation.candidates
        _, final_weights = observation.weights[-1]
        difficulty = [losses(observation, shadow.weights, candidates) for shadow in observation.shadows[self.plan()]]
        return torch.stack(difficulty).mean(0) - losses(observation, final_weights, candidates)
