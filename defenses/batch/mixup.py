"""MixUp: every example is mixed with another one of its batch, x' = l x + (1 - l) x_p, labels likewise.

Paper: Zhang et al. 2018, arXiv 1710.09412: one l from Beta(a, a) for the whole batch, partners p by a random
permutation. The gradient is that of the mixed batch, exactly: whoever reconstructs x' and knows l and p, or searches
them together with x, has x back by solving a linear system, unless l is 1/2 in a swapped pair. No guarantee.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from defenses.batch._mixing import mixed, refuses_to_mix, uniforms
from fedsim.core.hooks import Defense, Here, Place, Rules
from fedsim.core.registry import defense
from fedsim.core.types import Batch, Config, PublicKnowledge


class MixupConfig(Config):
    """Settings of MixUp."""

    alpha: float = Field(default=1.0, gt=0, le=100, description="both parameters a of the Beta distribution")


@final
@defense("mixup", summary="mixes every example with another one of its batch", paper="1710.09412")
class Mixup(Defense[MixupConfig]):
    """Mixes inputs and labels with one weight a batch."""

    place: ClassVar[Place] = "input"
    needs_step: ClassVar[bool] = True

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse batches of one, and models whose number of classes cannot be seen."""
        return refuses_to_mix(2, rules, model)

    def on_batch(self, batch: Batch, here: Here) -> Batch:
        """Return the mixed batch, its labels as probabilities (B, K)."""
        from scipy.special import betaincinv  # noqa: PLC0415 - importing SciPy takes longer than many a run

        alpha = self.config.alpha
        share = torch.from_numpy(betaincinv(alpha, alpha, uniforms((1,), here.generator).numpy())).to(batch.inputs)
        identity = torch.eye(len(batch), dtype=batch.inputs.dtype)
        partners = torch.randperm(len(batch), generator=here.generator)
        return mixed(batch, share * identity + (1.0 - share) * identity[partners], here)

    def adaptive_view(self) -> PublicKnowledge:
        """Return how many examples are mixed, and the distribution of the weight."""
        return PublicKnowledge("mixup", {"mixed_examples": 2, "alpha": self.config.alpha})
