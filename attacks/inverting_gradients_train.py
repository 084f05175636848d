"""IG in training mode: every iteration matches with freshly drawn dropout masks.

The obvious repair of IG (arXiv 2003.14053), and a baseline of arXiv 2208.06163: the objective becomes noise, since the
client's masks are never drawn again. Threat model: honest-but-curious server, one gradient, dropout rates known.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from attacks._matching import MatchingConfig, Search, match_gradients, one_gradient_only
from fedsim.hooks import Attack
from fedsim.masks import drawn_masks, injected_masks
from fedsim.registry import attack
from fedsim.types import Knowledge, Observation, OnStep, Reconstruction


class InvertingGradientsTrainConfig(MatchingConfig):
    """Settings of IG in training mode."""


@final
@attack("ig-train", summary="gradient matching with fresh random masks in every iteration", paper="2003.14053")
class InvertingGradientsTrain(Attack[InvertingGradientsTrainConfig]):
    """One draw of masks an iteration."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Optimise the inputs alone."""
        sites, like = observation.sites, torch.empty(0)
        search = Search(forward=lambda _masks: injected_masks(sites, drawn_masks(sites, generator, like)))
        return match_gradients(observation, self.config, search, generator, on_step)
