"""Well-informed Inverting Gradients (WIIG): gradient matching with the client's true masks.

Paper: Scheliga, Maeder, Seeland 2023, arXiv 2208.06163. Threat model: honest-but-curious server that was GIVEN the
dropout masks; the upper reference that tells whether the image is still in the gradient. Without dropout it is IG.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from attacks._matching import MatchingConfig, Search, match_gradients, one_gradient_only
from fedsim.hooks import Attack
from fedsim.masks import injected_masks
from fedsim.registry import attack
from fedsim.types import Knowledge, Observation, OnStep, Reconstruction


class WiigConfig(MatchingConfig):
    """Settings of WIIG."""


@final
@attack("wiig", summary="gradient matching with the true dropout masks (upper reference)", paper="2208.06163")
class Wiig(Attack[WiigConfig]):
    """Forward passes with the granted masks."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"masks", "dropout-rates"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates of several steps."""
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Optimise the inputs alone."""
        masks = observation.masks[0] if observation.masks else ()
        search = Search(forward=lambda _masks: injected_masks(observation.sites, masks))
        return match_gradients(observation, self.config, search, generator, on_step)
