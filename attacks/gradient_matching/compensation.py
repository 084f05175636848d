"""compensation: remove noise of known scale from the gradient by its spectrum, then match the result.

Idea: the gradient of a few images has low rank in each layer, and noise has not, so most of the noise can be removed.
    In GradDefense the server compensates noise for the sake of training; an attacker can do the same.
Equation: g' = g* without directions whose eigenvalue lies in the bulk of the noise; min over x of 1 - cos(g(x), g').
Assumes: honest-but-curious server, a single gradient, granted the defenses; independent noise of one known, absolute
    scale.
Recovers: images, labels, and dropout masks of known rates.
Fails: noise larger than the gradient's own directions. A search gains little: noise that no image can cause hardly
    moves its minimum.
Source: Wang et al. 2022, INFOCOM (GradDefense), whose compensation it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.core.defense_facts import noise_of
from attacks.core.matching.attack import MaskSearchConfig
from attacks.core.matching.known_defense import InformedAttack
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Observation, OnStep, Reconstruction
from fedsim.privacy.compensation import without_noise


@final
@attack("compensation", summary="removes known noise from the gradient by its spectrum, then matches the result")
class Compensation(InformedAttack[MaskSearchConfig]):
    """Applies the server's compensation before a search."""

    effort: ClassVar[Effort] = "descent"
    example: ClassVar[Tables] = {"defenses": [{"name": "gradient-noise", "scale": 1e-3}]}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates without independent noise of a known, absolute scale."""
        noise = noise_of(observation)
        if noise is None or noise.is_relative:
            return "no defense declares noise of a single scale"
        return super().not_applicable(observation)

    def search_batch(
        self, observations: Sequence[Observation], generators: Sequence[torch.Generator], on_steps: Sequence[OnStep]
    ) -> list[Reconstruction]:
        """Compensate each update, then search."""
        return super().search_batch([_without_noise(observation) for observation in observations], generators, on_steps)


def _without_noise(observation: Observation) -> Observation:
    noise = noise_of(observation)
    assert noise is not None, "checked by `not_applicable`"
    tensors: dict[str, Tensor] = {
        name: without_noise(tensor.flatten(1), noise.scale, noise.share).view_as(tensor) if tensor.ndim > 1 else tensor
        for name, tensor in observation.update.tensors.items()
    }
    return replace(observation, update=replace(observation.update, tensors=tensors))
