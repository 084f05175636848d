"""loss-trajectory: score an example by the decrease of its loss between earlier rounds and the last round.

Idea: early models have memorised less, so their loss measures the difficulty of an example. They replace the shadow
    models of `calibrated`.
Equation: score(x) = mean over earlier watched rounds t of loss(f_t, x) - loss(f_T, x), with f_T the last model.
Assumes: the global models of at least two rounds (`threat.rounds`), as a server or any client has them; no training.
Recovers: a score for each candidate.
Fails: models that do not overfit; earlier models that have memorised the example already.
Source: after Liu, Zhao, Backes, Zhang 2022, arXiv 2208.14933, without their classifier and distillation.
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
    "loss-trajectory",
    summary="how far the loss fell since earlier watched rounds",
    tier="core",
    paper="2208.14933",
    fidelity="variant",
    deviates="the mean fall of the loss, without classifier and distillation",
    paper_steps=(
        ("fall of the loss over the rounds", "LossTrajectory.score"),
        ("trajectory of a distilled model", ""),
        ("classifier of trajectories", ""),
    ),
)
class LossTrajectory(MembershipAttack[Config]):
    """Scores by the decrease of the loss over rounds."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse a single model."""
        if len(observation.weights) > 1:
            return None
        return (
            "needs the global models of at least two rounds (in a scenario: threat.rounds), and observes a single round"
        )

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the mean earlier loss minus the last loss."""
        course = torch.stack(
            [losses(observation, weights, observation.candidates) for _, weights in observation.weights]
        )
        return course[:-1].mean(0) - course[-1]
