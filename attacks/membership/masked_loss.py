"""masked-loss: score a text by how well the final model predicts its masked tokens; members are predicted better.

Idea: a masked diffusion model has no tractable loss of a whole text, but a bound on it, which masks at every rate
    estimate. The same positions are masked in every text, so that their sampling does not blur the comparison.
Equation: score(x) = mean over masks S of the mean over i in S of log p(x_i | x without S), |S| / n evenly in (0, 1].
Assumes: the final model's predictions of masked texts.
Recovers: a score for each candidate; it shows that the model overfits.
Fails: easy texts look like members, as for every threshold on a loss; a model that was trained little.
Source: the threshold of Yeom et al. 2018, arXiv 1709.01604, on the bound of Nie et al. 2025, arXiv 2502.09992.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._masked_losses import fills_in_nothing, masked_places, token_losses
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation


class MaskedLossConfig(Config):
    """Settings of the masked loss."""

    masks: int = Field(
        default=16, ge=1, description="number of masks, with shares of masked positions evenly spaced between 0 and 1"
    )


@final
@attack(
    "masked-loss",
    summary="how well the model fills in masked places of a text",
    tier="core",
    paper="1709.01604",
    fidelity="variant",
    deviates="its loss is the bound of arXiv 2502.09992 for masked places",
    paper_steps=(("loss as score", "MaskedLoss.score"),),
)
class MaskedLoss(MembershipAttack[MaskedLossConfig]):
    """Scores by the final model's loss at masked positions."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse models without a mask token."""
        return fills_in_nothing(observation)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return minus the mean loss at masked positions."""
        _, final_weights = observation.weights[-1]
        batch, scores = observation.candidates, list[Tensor]()
        for number in range(self.config.masks):
            share = (number + 0.5) / self.config.masks
            masked = masked_places(batch, share, torch.rand(batch.inputs.shape[1], generator=generator))
            losses = token_losses(observation, final_weights, masked)
            scores.append((losses * masked).sum(1) / masked.sum(1))
        return -torch.stack(scores).mean(0)
