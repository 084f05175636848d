"""lira: compare the model's confidence with that of shadow models with and without the example (LiRA).

Idea: fit one Gaussian to the confidences of models trained with the example and another to those without. With few
    shadow models a variance per example is too noisy: `variance = "fixed"` uses a single variance for all.
Equation: phi = log(p / (1 - p)), p the probability of the example's label; online score = log N(phi; m_in, s_in^2) -
    log N(phi; m_out, s_out^2); offline score = (phi - m_out) / s_out, which ranks as the paper's Phi(score) does.
Assumes: the final model, and data to train shadow models: online half of them with each candidate, offline none.
Recovers: a score for each candidate; single members even at low false-positive rates.
Fails: models that do not overfit; few shadow models; shadow models that are trained otherwise than the clients.
Source: Carlini, Chien, Nasr, Song, Terzis, Tramer 2022, arXiv 2112.03570, algorithm 1.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._signals import scale
from fedsim.core.hooks import IMAGES_AND_TEXT
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, ShadowPlan

_LEAST_VARIANCE = 1e-12


class LiraConfig(Config):
    """Settings of LiRA."""

    shadows: int = Field(
        default=16, ge=4, multiple_of=2, description="number of shadow models; online, half of them with each candidate"
    )
    mode: Literal["online", "offline"] = Field(
        default="online", description="online: shadow models with and without each candidate; offline: only without"
    )
    variance: Literal["fixed", "per-example"] = Field(
        default="fixed", description="fixed: the same for all examples; per-example: needs 64 shadow models or more"
    )


@final
@attack(
    "lira",
    summary="likelihood ratio of the confidence with and without the example",
    tier="core",
    paper="2112.03570",
    fidelity="reproduction",
    paper_steps=(
        ("shadow models with and without each candidate", "Lira.plan"),
        ("logit of the label's probability", "attacks.membership._signals.scale"),
        ("Gaussians of both groups, per example or with a common variance", "Lira._fit"),
        ("likelihood ratio, or the offline test", "Lira.score"),
    ),
)
class Lira(MembershipAttack[LiraConfig]):
    """Scores by Gaussians fitted to the confidences of shadow models."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def plan(self) -> ShadowPlan:
        """Return shadow models with half of the candidates each; offline with none."""
        return ShadowPlan(self.config.shadows, with_candidates=self.config.mode == "online")

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the log likelihood ratio; offline the number of standard deviations above m_out."""
        candidates, shadows = observation.candidates, observation.shadows[self.plan()]
        _, final_weights = observation.weights[-1]
        observed = scale(observation, final_weights, candidates)
        confidence = torch.stack([scale(observation, shadow.weights, candidates) for shadow in shadows])
        shadow_scores = torch.stack([shadow.candidates for shadow in shadows])
        mean_out, variance_out = self._fit(confidence, ~shadow_scores)
        if self.config.mode == "offline":
            return (observed - mean_out) / variance_out.sqrt()
        mean_in, variance_in = self._fit(confidence, shadow_scores)
        return _log_density(observed, mean_in, variance_in) - _log_density(observed, mean_out, variance_out)

    def _fit(self, confidence: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the chosen confidences of each example, both of shape (N,) or broadcastable."""
        counts = chosen.sum(0)
        mean = (confidence * chosen).sum(0) / counts
        squares = ((confidence - mean) ** 2 * chosen).sum(0)
        is_fixed = self.config.variance == "fixed"
        variance = squares.sum() / (counts - 1).sum() if is_fixed else squares / (counts - 1)
        return mean, variance.clamp(min=_LEAST_VARIANCE)


def _log_density(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return the logarithm of a Gaussian's density, without the constant that cancels in a ratio."""
    return -((value - mean) ** 2) / (2 * variance) - variance.log() / 2
