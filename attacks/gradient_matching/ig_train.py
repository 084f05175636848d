"""IG in training mode: every iteration matches with freshly drawn dropout masks.

The obvious repair of IG (arXiv 2003.14053), and a baseline of arXiv 2208.06163: the objective becomes noise, since the
client's masks are never drawn again. Threat model: honest-but-curious server, one gradient, dropout rates known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch

from attacks._engine import Search
from attacks._masking import DrawnMasks, NoMasks
from attacks._matching import MatchingAttack, MatchingConfig
from fedsim.hooks import Effort
from fedsim.registry import attack
from fedsim.types import Knowledge, Observation


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
