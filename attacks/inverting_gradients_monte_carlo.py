"""IG with averaged masks: every iteration matches the mean gradient over S drawn sets of dropout masks.

A stronger baseline than one draw: it matches the expected sub-network, g = (1/S) sum_s g(x, mask_s), while the client
used a single one (arXiv 2208.06163 explains why that is not enough). Threat model: honest-but-curious server, one
gradient, dropout rates known.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field

from attacks._matching import MatchingConfig, Search, match_gradients, one_gradient_only
from fedsim.hooks import Attack
from fedsim.masks import drawn_masks, injected_masks
from fedsim.registry import attack
from fedsim.types import Knowledge, Observation, OnStep, Reconstruction


class InvertingGradientsMonteCarloConfig(MatchingConfig):
    """Settings of IG with averaged masks."""

    draws: int = Field(default=8, ge=1, description="S, sets of masks an iteration")


@final
@attack("ig-mc", summary="gradient matching with the mean gradient over drawn masks", paper="2003.14053")
class InvertingGradientsMonteCarlo(Attack[InvertingGradientsMonteCarloConfig]):
    """S draws of masks an iteration."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"dropout-rates"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Optimise the inputs alone."""
        sites, like = observation.sites, torch.empty(0)
        search = Search(
            forward=lambda _masks: injected_masks(sites, drawn_masks(sites, generator, like)),
            draws=self.config.draws if sites else 1,
        )
        return match_gradients(observation, self.config, search, generator, on_step)
