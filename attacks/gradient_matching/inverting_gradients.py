"""Inverting Gradients (IG): match the direction of the observed gradient with a full, dropout-free network.

Paper: Geiping et al. 2020, arXiv 2003.14053, equation 4; schedule and stop rules as in arXiv 2208.06163, whose lower
reference it is. Threat model: honest-but-curious server, one gradient. When the client drops out, the search
minimises the wrong function: even the true image has a large objective. That looks like privacy and is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from attacks.core.unknowns import Unknowns
from attacks.gradient_matching._engine import Search
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.registry import attack
from fedsim.core.types import Observation, View


class InvertingGradientsConfig(MatchingConfig):
    """Settings of IG."""


@final
@attack(
    "inverting-gradients", summary="gradient matching that ignores dropout (IG)", paper="2003.14053", aliases=("ig",)
)
class InvertingGradients(MatchingAttack[InvertingGradientsConfig]):
    """Forward passes in evaluation mode."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    training_mode: ClassVar[bool] = False

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise the inputs alone."""
        return Search(Unknowns(), self.first(observations), self.smoothness)
