"""rmia: compare the rise of an example's probability with that of others from the same population (RMIA, offline).

Idea: training on x raises p(x) above its value under models without x. The pairwise test checks whether it rises more
    than that of other examples.
Equation: score(x) = share of population examples z with ratio(x) / ratio(z) >= gamma, ratio(x) = p(x | f) / p(x),
    p(x) = ((1 + a) p_out(x) + 1 - a) / 2; p_out is the mean over shadow models without x, and p_in = a p_out + 1 - a.
Assumes: the final model, reference examples as the population, and shadow models without the candidates.
Recovers: a score for each candidate; single members at low false-positive rates, already with one or two shadow models.
Fails: models that do not overfit; shadow models that are trained otherwise than the clients, for example without their
    defenses.
Source: Zarifzadeh, Liu, Shokri 2024, arXiv 2312.03262, section 3 and its offline approximation.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._signals import confidences
from fedsim.core.hooks import IMAGES_AND_TEXT
from fedsim.core.registry import attack
from fedsim.core.types import Batch, Config, Modality
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, ShadowPlan


class RmiaConfig(Config):
    """Settings of RMIA."""

    shadows: int = Field(
        default=8, ge=2, multiple_of=2, description="number of shadow models, trained without the candidates"
    )
    a: float = Field(
        default=0.3, ge=0, le=1, description="slope of p_in = a p_out + 1 - a; 1: training on x changes nothing"
    )
    gamma: float = Field(default=2.0, ge=1, description="factor by which the ratio of x must exceed that of z")


@final
@attack(
    "rmia",
    summary="the rise of the example's probability against that of a population",
    tier="core",
    paper="2312.03262",
    fidelity="reproduction",
    paper_steps=(
        ("ratio of an example, with the offline approximation", "Rmia._ratio"),
        ("share of population examples that it exceeds by gamma", "Rmia.score"),
    ),
)
class Rmia(MembershipAttack[RmiaConfig]):
    """Scores by pairwise likelihood ratios with the reference examples."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def plan(self) -> ShadowPlan:
        """Return shadow models trained without candidates; each reference example is in half of them."""
        return ShadowPlan(self.config.shadows, with_candidates=False)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the share of the population whose ratio each candidate exceeds by the factor gamma."""
        shadows = observation.shadows[self.plan()]
        ratio_x = self._ratio(
            observation, observation.candidates, torch.stack([~shadow.candidates for shadow in shadows])
        )
        ratio_z = self._ratio(
            observation, observation.reference, torch.stack([~shadow.reference for shadow in shadows])
        )
        beaten = torch.searchsorted(ratio_z.sort().values, ratio_x / self.config.gamma, right=True)
        return beaten / len(ratio_z)

    def _ratio(self, observation: MembershipObservation, batch: Batch, is_outside: Tensor) -> Tensor:
        """Return p(x | f) / p(x), shape (B,).

        Args:
            observation: provides model and shadow models.
            batch: examples x.
            is_outside: whether each shadow model was trained without x, shape (shadows, B).
        """
        _, final_weights = observation.weights[-1]
        shadows = observation.shadows[self.plan()]
        ratios = torch.stack([confidences(observation, shadow.weights, batch) for shadow in shadows])
        mean_ratio = (ratios * is_outside).sum(0) / is_outside.sum(0)
        a = self.config.a
        return confidences(observation, final_weights, batch) / (((1 + a) * mean_ratio + 1 - a) / 2)
