"""TAG: the text whose gradient lies closest to the observed one, by squared and absolute differences.

Paper: Deng et al. 2021, arXiv 2103.06819: min over x of sum_l a_l (|g_l - g*_l|_2^2 + a |g_l - g*_l|_1), with weights
a_l that may decay with depth; AdamW without decay of the vectors, which is Adam; the nearest token by cosine.
Threat model: honest-but-curious server, one gradient. The paper attacks classifiers of sentences, whose labels are
given; a language model's labels are the text itself, so they are searched with it. Dropout masks that are unknown are
searched too, which the paper does not do.
"""

from __future__ import annotations

from typing import Any, cast, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient_matching._comparison import ExplicitGradients, Gradients
from attacks.gradient_matching._engine import Found, Pace, Search, descend
from attacks.text.base import Task, TextMatching, TextMatchingConfig
from fedsim.core.registry import attack
from fedsim.core.types import OnStep


class TagConfig(TextMatchingConfig):
    """Settings of TAG."""

    iterations: int = Field(default=1000, ge=1, description="of each start")
    learning_rate: float = Field(
        default=0.25, gt=0, description="Adam's step, in root mean square entries of the embedding"
    )
    absolute_weight: float = Field(default=0.01, ge=0, description="weight a of the absolute differences")
    depth_decay: float = Field(
        default=1.0, gt=0, le=1, description="factor of the weight of a tensor to that of the one before it"
    )
    restarts: int = Field(default=1, ge=1, description="independent starts; the lowest objective wins")


@final
@attack("tag", summary="text whose gradient is closest in L2 and L1 (TAG)", paper="2103.06819")
class Tag(TextMatching[TagConfig]):
    """Descends once, from noise or from random words."""

    reads_entries = True

    @classmethod
    def within(cls, gradients: int) -> dict[str, Any]:
        """Return so many iterations."""
        return {"iterations": gradients}

    def rows(self, task: Task, generator: torch.Generator, on_step: OnStep) -> list[Found]:
        """Descend from all starts."""
        search = Search(
            task.unknowns,
            lambda _victim, own: task.drawn(own),
            lambda inputs, _masks, _victims: inputs.new_zeros(len(inputs)),
            self.distance,
            sites=task.setting.sites,
        )
        pace = Pace(
            self.config.iterations,
            self.config.learning_rate * task.scale,
            schedule="cosine",
        )
        return descend(task.comparison, search, [task.labels], self.config.restarts, pace, None, [generator], [on_step])

    def distance(self, gradients: Gradients) -> Tensor:
        """Return the weighted sum of squared and absolute differences, shape (R,)."""
        built = cast("ExplicitGradients", gradients)
        squared = built.difference()
        absolute = built.absolute(squared.new_ones(len(squared)))
        weights = self.config.depth_decay ** torch.arange(squared.shape[1], device=squared.device)
        return ((squared + self.config.absolute_weight * absolute) * weights).sum(1)
