"""IG in training mode: every iteration matches with freshly drawn dropout masks.

The obvious repair of IG (arXiv 2003.14053), and a baseline of arXiv 2208.06163: the objective becomes noise, since the
client's masks are never drawn again. Threat model: honest-but-curious server, one gradient, dropout rates known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch

from attacks.gradient_matching._engine import Search
from attacks.gradient_matching._unknowns import DrawnMasks, NoMasks
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.hooks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


class InvertingGradientsTrainConfig(MatchingConfig):
    """Settings of IG in training mode."""


@final
@attack("ig-train", summary="gradient matching with fresh masks in every iteration", paper="2003.14053")
class InvertingGradientsTrain(MatchingAttack[InvertingGradientsTrainConfig]):
    """Forward passes in training mode."""

    effort: ClassVar[Effort] = "reference"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Optimise the inputs alone."""
        sites = observations[0].sites
        masking = DrawnMasks(sites, 1, torch.empty(0)) if sites else NoMasks()
        return Search(masking, self.first(observations), self.smoothness)
