"""Inverting Gradients (IG): match the direction of the observed gradient with a full, dropout-free network.

Paper: Geiping et al. 2020, arXiv 2003.14053, equation 4; schedule and stop rules as in arXiv 2208.06163, whose lower
reference it is. Threat model: honest-but-curious server, one gradient. When the client drops out, the search
minimises the wrong function: even the true image has a large objective. That looks like privacy and is none.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from attacks._matching import MatchingConfig, Search, match_gradients, one_gradient_only
from fedsim.hooks import Attack
from fedsim.masks import without_dropout
from fedsim.registry import attack
from fedsim.types import Observation, OnStep, Reconstruction, View


class InvertingGradientsConfig(MatchingConfig):
    """Settings of IG."""


@final
@attack("inverting-gradients", summary="gradient matching that ignores dropout (IG)", paper="2003.14053")
class InvertingGradients(Attack[InvertingGradientsConfig]):
    """Forward passes in evaluation mode."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Optimise the inputs alone."""
        search = Search(forward=lambda _masks: without_dropout(), training_mode=False)
        return match_gradients(observation, self.config, search, generator, on_step)
