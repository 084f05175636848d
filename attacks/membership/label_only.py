"""label-only: score an example by the amount of noise that changes the predicted label.

Idea: training pushes the decision boundary away from members, so their label survives more noise; no confidence is
    needed.
Equation: score(x) = [f(x) = y] + mean over levels s and draws n of [f(x + s n) = y], n standard normal, the same for
    all candidates. Of a linear model, m from the boundary, its expectation is [m > 0] + mean over s of Phi(m / s).
Assumes: predicted labels of the final model, (levels x draws) + 1 queries for each candidate.
Recovers: a score for each candidate.
Fails: models that do not overfit; scores are counts, so many candidates tie and low false-positive rates cannot be set.
Source: Choquette-Choo, Tramer, Carlini, Papernot 2021, arXiv 2007.14321, section 4.3 (noise); Li, Zhang 2021, arXiv
    2007.15528 (distance to the boundary); levels and the sum are chosen here.
"""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._labels import explain_missing_classes, is_right
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation


class LabelOnlyConfig(Config):
    """Settings of the attack."""

    levels: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(1.0, 2.0, 4.0, 8.0),
        min_length=1,
        description="standard deviations of the noise, in units of the normalised inputs",
    )
    draws: int = Field(
        default=8, ge=0, description="of noise at each level; 0: only whether the label is right (the gap attack)"
    )


@final
@attack(
    "label-only",
    summary="labels that survive noise mean a member",
    tier="core",
    paper="2007.14321",
    fidelity="variant",
    deviates="noise levels and the sum over them are chosen here",
    paper_steps=(("distance to the boundary by labels under noise", "LabelOnly.score"),),
)
class LabelOnly(MembershipAttack[LabelOnlyConfig]):
    """Scores by the share of noisy copies with the right label."""

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse labels that are not classes."""
        return explain_missing_classes(observation)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return whether the label is right, plus the share of noisy copies with the right label."""
        inputs = observation.candidates.inputs
        score = is_right(observation, inputs)
        shares = torch.zeros_like(score)
        for _ in range(self.config.draws):
            noise = torch.randn(inputs.shape[1:], generator=generator)
            for level in self.config.levels:
                shares += is_right(observation, inputs + level * noise)
        return score + shares / max(1, self.config.draws * len(self.config.levels))
