"""tag: search the text whose gradient is closest to the observed gradient in squared and absolute differences (TAG).

Tokens are nearest by cosine. The distance is `l1`; a is its `absolute_weight`, and a_l = `depth_decay`^l. If the
embedding's gradient is shared, only tokens of the batch are candidates; lengths of sentences are inferred from the
output layer's gradient. Masks start at their expectation 1 - p; `unknown_masks = "ignored"` leaves dropout out, and
granted masks are used. Under a contrastive loss a vector does not show what the second view repeats, nor where a
sentence ends. `subspace-distance` finds exact sentences where TAG gets only words right.

Idea: descent on one vector per token; the nearest tokens are returned. A language model's labels are its next words,
    so the vector of the next position represents them, softly.
Equation: min over x of sum_l a_l (|g_l - g*_l|_2^2 + a |g_l - g*_l|_1), weights a_l that may decay with depth.
Assumes: honest-but-curious server, a single gradient; a loss of next words (mean cross-entropy), or granted labels.
Recovers: words, partly in order. Dropout masks of known rates are searched too, unlike in the paper.
Fails: whole sentences nearly always, since the order of words has many local minima; trained models; contrastive
    losses, which it refuses.
Source: Deng et al. 2021, arXiv 2103.06819, which attacks classifiers of given labels. Its AdamW without decay is Adam.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from pydantic import Field

from attacks.core.matching.descent import Descent, DescentSettings, RestartResult, Search, descend
from attacks.core.matching.terms import DistanceChoice, distance_setting
from attacks.text._examples import LISTS
from attacks.text.base import GRADIENTS_OF_A_TEXT_STEP, TextMatching, TextMatchingConfig, TextProblem
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Observation, OnStep


class TagConfig(TextMatchingConfig):
    """Settings of TAG."""

    max_iterations: int = Field(default=1000, ge=1, description="iterations of each restart")
    learning_rate: float = Field(
        default=0.25, gt=0, description="Adam's step, in units of the root mean square of the embedding's entries"
    )
    distance: DistanceChoice = distance_setting("l1")
    restarts: int = Field(default=1, ge=1, description="independent restarts; the lowest objective wins")


@final
@attack(
    "tag",
    summary="text with the closest gradient in L2 and L1 (TAG)",
    tier="core",
    paper="2103.06819",
    fidelity="variant",
    deviates="weights by depth are off by default and apply to both terms; next words and masks are unknowns too",
    paper_steps=(
        ("squared and absolute differences", "attacks.core.matching.distances.l1.L1Distance.measure"),
        ("descent on one vector per token", "Tag.rows"),
        ("nearest tokens", "attacks.text._vectors.nearest_tokens"),
        ("depth weights on the absolute term alone", ""),
    ),
)
class Tag(TextMatching[TagConfig]):
    """Descends from noise or from random words."""

    effort: ClassVar[Effort] = "descent"
    example: ClassVar[Tables] = {**LISTS, "attacks": [{"max_iterations": 10}]}

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return settings with this number of iterations."""
        return {"max_iterations": gradients}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect words in a wrong order."""
        return 0.13, "a descent finds words, and rarely their order"

    def count_gradients(self) -> float:
        """Count the steps of the descent."""
        return GRADIENTS_OF_A_TEXT_STEP * self.config.max_iterations

    def rows(self, task: TextProblem, generator: torch.Generator, on_step: OnStep) -> list[RestartResult]:
        """Run the descent of all restarts."""
        search = Search(task.unknowns, lambda _victim, source: task.draw(source), self.distance)
        rate = self.config.learning_rate * task.scale
        settings = DescentSettings(self.config.max_iterations, rate, schedule="cosine")
        victim = task.victim(generator, on_step)
        return descend(Descent(task.comparison, search, victim, settings, restarts=self.config.restarts))
