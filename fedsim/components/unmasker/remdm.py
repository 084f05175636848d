"""remdm: masks written positions again at random while others are written, so errors can be corrected.

Idea: a posterior that masks tokens again with probability s has the same marginals at each time as without it,
    so a trained model needs no further training.
Equation: from a to b, the shares of written positions before and after a step, a written position is masked with
    probability s, and a masked one written with (b - (1 - s) a) / (1 - a); s is at most min(1, (1 - b) / a).
Assumes: a model that fills masked positions; steps that are a multiple of the number of blocks.
Leaks: no token of a block is written before its end; `remasked` is random only, unless `by_confidence`.
Fails: few steps leave little room for corrections; with many steps texts lose diversity.
Source: Wang et al. 2025, arXiv 2503.00307: its capped, rescaled and confidence-based schedules; a is linear in time.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.components.unmasker._blocks import Proposed
from fedsim.components.unmasker._revising import Guesses, Revising, RevisingConfig
from fedsim.core.registry import component


class RemdmConfig(RevisingConfig):
    """Settings of remasking; the paper samples at temperature 1."""

    remasking: Literal["cap", "rescale"] = Field(
        default="cap", description="cap: s is at most eta; rescale: s is eta times the largest that is allowed"
    )
    eta: float = Field(default=0.1, ge=0, le=1, description="0: nothing is masked again")
    by_confidence: bool = Field(
        default=False,
        description="whether the chance s is shared out among written places by the softmax of minus the confidence",
    )


@final
@component(
    "remdm",
    summary="unmasker: unmasks random positions, and remasks random unmasked positions",
    tier="research",
    paper="2503.00307",
    fidelity="variant",
    deviates="without the loop of its third phase; blocks as in ParallelBench",
    paper_steps=(
        ("chances of writing and of masking anew", "Remdm.revise"),
        ("capped and rescaled chance", "Remdm.chance"),
        ("chance by confidence", "Remdm.chances"),
    ),
)
class Remdm(Revising[RemdmConfig]):
    """Writes and masks each position of a block independently."""

    def revise(self, before: Guesses, proposed: Proposed, steps: int, generator: torch.Generator) -> Guesses:
        """Return the written positions that are not masked again, and newly written positions."""
        level, next_level = before.step_count / steps, (before.step_count + 1) / steps
        chance = self.chance(level, next_level)
        shared = 0.0 if self.config.by_confidence else chance  # no compensation at masked positions
        written = list(before.tokens)
        falls = torch.rand(len(written), generator=generator, dtype=torch.double) < self.chances(before, chance)
        stays = torch.rand(len(proposed.places), generator=generator, dtype=torch.double) < (
            next_level - (1 - shared) * level
        ) / (1 - level)
        kept = [place for place, is_masked in zip(written, falls.tolist(), strict=True) if not is_masked]
        rewritten = [place for place, is_written in zip(proposed.places, stays.tolist(), strict=True) if is_written]
        return before.add_proposals(proposed).of(sorted([*kept, *rewritten]))

    def chance(self, level: float, next_level: float) -> float:
        """Return s of a step between two shares of written positions."""
        limit = min(1.0, (1 - next_level) / level) if level else 1.0
        return min(self.config.eta, limit) if self.config.remasking == "cap" else self.config.eta * limit

    def chances(self, before: Guesses, chance: float) -> Tensor:
        """Return the probability of each written position to be masked again, shape (n,)."""
        sure = torch.tensor(list(before.confidence.values()), dtype=torch.double)
        return chance * (-sure).softmax(0) if self.config.by_confidence else torch.full_like(sure, chance)
