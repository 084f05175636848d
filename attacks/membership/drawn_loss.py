"""drawn-loss: score an example by the final model's loss, averaged over the task's random draws; members score higher.

Idea: the loss of a diffusion model is random, since each step draws a level and noise, or masked positions. Its mean
    over many draws separates members, and a noise level between image and noise separates best.
Equation: score(x) = -1/K sum over k of loss(f, x, draws_k), with f the final model.
Assumes: the final model's outputs at noise that the attacker chose. Without draws it equals `loss-threshold`.
Recovers: a score for each candidate; it shows that a model overfits.
Fails: easy examples look like members; few draws, whose variance hides the difference.
Source: Matsumoto, Miura, Yanai 2023, arXiv 2302.03262; Carlini et al. 2023, arXiv 2301.13188, section 5.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.membership._signals import model_with
from fedsim.core.hooks import IMAGES_AND_TEXT
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation

_LEVEL = "task.level"


class DrawnLossConfig(Config):
    """Settings of the attack."""

    draws: int = Field(default=16, ge=1, description="K, draws of each example")
    level: float | None = Field(
        default=None,
        gt=0,
        description="for denoisers: the noise level of every draw; unset: the noise levels of training",
    )


@final
@attack(
    "drawn-loss",
    summary="a small loss over many draws of noise means a member",
    tier="research",
    paper="2302.03262",
    fidelity="variant",
    deviates="the loss is averaged over many draws of noise levels",
    paper_steps=(("loss under drawn noise levels as score", "DrawnLoss.score"),),
)
class DrawnLoss(MembershipAttack[DrawnLossConfig]):
    """Scores by the final model's mean loss over draws."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    @torch.no_grad()
    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return minus the mean loss."""
        _, weights = observation.weights[-1]
        task, rounds = observation.task, self.config.draws if observation.task.draws else 1
        model, scores = model_with(observation, weights), list[Tensor]()
        for part in observation.candidates.split(task.eval_batch_size):
            total = torch.zeros(len(part), dtype=torch.double)
            for _ in range(rounds):
                draws = task.named_draws(part, generator)
                if self.config.level is not None and _LEVEL in draws:
                    draws[_LEVEL] = torch.full_like(draws[_LEVEL], self.config.level)
                total += task.losses(*task.answer(model, part, draws))
            scores.append(-total / rounds)
        return torch.cat(scores)
