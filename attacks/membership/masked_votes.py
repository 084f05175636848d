"""masked-votes: many masks vote on whether the model predicts a text better than a reference does (idea of SAMA).

Idea: the masks that reveal memorisation differ from text to text, and single losses have heavy tails. So masks of
    growing density and small sets of masked positions vote by a sign; sparse masks, which are less noisy, weigh more.
Equation: score(x) = sum_s w_s mean over sets U in S_s of [mean over i in U of ref_i - own_i > 0], w_s ~ 1 / |S_s|, with
    losses own_i of the final model, and mean losses ref_i of shadow models, at masked positions S_s.
Assumes: the final model, and texts from the same population to train shadow models without any candidate.
Recovers: a score for each candidate that is robust to outliers of single tokens.
Fails: models that do not overfit; low-noise losses, since a sign is coarser than the loss.
Source: inspired by SAMA, Chen et al. 2026, arXiv 2601.20125, of which the abstract was read; its reference is the
    model before it was fine-tuned.
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
from fedsim.questions.membership.types import MembershipObservation, ShadowPlan


class MaskedVotesConfig(Config):
    """Settings of the votes."""

    shadows: int = Field(
        default=2, ge=2, multiple_of=2, description="number of shadow models, trained without the candidates"
    )
    masks: int = Field(default=16, ge=1, description="masks, one a density")
    sparsest: float = Field(default=0.05, gt=0, le=1, description="share of masked places in the first mask")
    densest: float = Field(default=0.5, gt=0, le=1, description="the same in the last mask")
    sets: int = Field(default=32, ge=1, description="sets of masked places that vote, for each mask")
    places: int = Field(default=10, ge=1, description="most places of a set")


@final
@attack(
    "masked-votes",
    summary="votes of many masks against a reference (idea of SAMA)",
    tier="research",
    paper="2601.20125",
    fidelity="inspired",
    deviates="only the abstract was read; shadow models are the reference",
)
class MaskedVotes(MembershipAttack[MaskedVotesConfig]):
    """Scores by the weighted share of votes for the final model."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def plan(self) -> ShadowPlan:
        """Return shadow models trained without candidates."""
        return ShadowPlan(self.config.shadows, with_candidates=False)

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse models without a mask token."""
        return fills_in_nothing(observation)

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the weighted share of votes."""
        batch, config = observation.candidates, self.config
        shares = torch.linspace(config.sparsest, config.densest, config.masks).tolist()
        total = torch.zeros(len(batch), dtype=torch.double)
        for share in shares:
            masked = masked_places(batch, share, torch.rand(batch.inputs.shape[1], generator=generator))
            votes = _votes(self._gain(observation, masked), masked, config.sets, config.places, generator)
            total += votes / share
        return total / sum(1 / share for share in shares)

    def _gain(self, observation: MembershipObservation, masked: Tensor) -> Tensor:
        """Return the shadows' mean loss minus the final model's loss at each position, (N, T)."""
        _, final_weights = observation.weights[-1]
        shadows = [token_losses(observation, shadow.weights, masked) for shadow in observation.shadows[self.plan()]]
        return torch.stack(shadows).mean(0) - token_losses(observation, final_weights, masked)


def _votes(gain: Tensor, masked: Tensor, sets: int, places: int, generator: torch.Generator) -> Tensor:
    """Return the share of random subsets of masked positions with a positive mean gain, (N,).

    A subset has half of the masked positions, at most `places`.
    """
    count = (masked.sum(1) / 2).ceil().clamp_max(places)
    total = torch.zeros(len(gain), dtype=torch.double)
    for _ in range(sets):
        keys = torch.rand(gain.shape[1], generator=generator).expand(gain.shape)
        ranks = keys.masked_fill(~masked, torch.inf).argsort(1).argsort(1)
        total += ((gain * (ranks < count[:, None])).sum(1) > 0).double()
    return total / sets
