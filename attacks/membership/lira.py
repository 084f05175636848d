"""LiRA, the likelihood-ratio attack: is the model's confidence rather that of models with or without the example?

    phi = log(p / (1 - p)) of the example's own label,
    online  score(x) = log N(phi; m_in, s_in^2) - log N(phi; m_out, s_out^2),
    offline score(x) = (phi - m_out) / s_out

Paper: Carlini, Chien, Nasr, Song, Terzis, Tramer 2022, arXiv 2112.03570, algorithm 1. Online, half of the shadow
models were trained with the example, and give m_in and s_in. Offline none was; the paper's probability
Phi(score) ranks the same, but rounds to 1. With few shadow models a variance for each example is noise: `fixed` takes
one for all, the mean squared deviation from each example's own mean. What it may leak: single members at few false
alarms, where a loss threshold finds none.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._signals import scaled
from fedsim.core.hooks import IMAGES_AND_TEXT, MembershipAttack
from fedsim.core.registry import membership
from fedsim.core.types import Config, MembershipObservation, Modality, ShadowPlan

_LEAST_VARIANCE = 1e-12


class LiraConfig(Config):
    """Settings of LiRA."""

    shadows: int = Field(default=16, ge=4, multiple_of=2, description="shadow models; online, half with each candidate")
    mode: Literal["online", "offline"] = Field(
        default="online", description="online: shadow models with and without each candidate; offline: only without"
    )
    variance: Literal["fixed", "per-example"] = Field(
        default="fixed", description="fixed: one for all examples; per-example: for 64 shadow models or more"
    )


@final
@membership("lira", summary="likelihood ratio of the confidence with and without the example", paper="2112.03570")
class Lira(MembershipAttack[LiraConfig]):
    """Scores by Gaussians fitted to shadow models' confidences."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def plan(self) -> ShadowPlan:
        """Return shadow models with half of the candidates each, or offline with none."""
        return ShadowPlan(self.config.shadows, with_candidates=self.config.mode == "online")

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the logarithm of the likelihood ratio; offline the number of standard deviations above m_out."""
        candidates, shadows = observation.candidates, observation.shadows[self.plan()]
        _, final_weights = observation.weights[-1]
        observed = scaled(observation, final_weights, candidates)
        confidence = torch.stack([scaled(observation, shadow.weights, candidates) for shadow in shadows])
        inside = torch.stack([shadow.candidates for shadow in shadows])
        mean_out, variance_out = self._fitted(confidence, ~inside)
        if self.config.mode == "offline":
            return (observed - mean_out) / variance_out.sqrt()
        mean_in, variance_in = self._fitted(confidence, inside)
        return _log_density(observed, mean_in, variance_in) - _log_density(observed, mean_out, variance_out)

    def _fitted(self, confidence: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
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
