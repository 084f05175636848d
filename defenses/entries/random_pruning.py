"""Random pruning, or random-k: entries drawn at random are sent as they are, the others are zero.

The control for pruning: as many entries, but none chosen for its size. Every step draws anew. Paper: Stich et al. 2018,
arXiv 1809.07599, section 2 (rand-k). Broken by matching on the sent entries alone.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from defenses.core.support import SupportConfig, largest, restricted
from defenses.core.tensors import TensorDefense
from fedsim.core.hooks import Here, Place
from fedsim.core.registry import defense
from fedsim.core.types import PublicKnowledge, Tensors


class RandomPruningConfig(SupportConfig):
    """Settings of random pruning."""


@final
@defense(
    "random-pruning", summary="sends entries drawn at random (random-k)", paper="1809.07599", aliases=("random-k",)
)
class RandomPruning(TensorDefense[RandomPruningConfig]):
    """Keeps exactly k entries."""

    place: ClassVar[Place] = "prune"

    def changed(self, tensors: Tensors, here: Here) -> Tensors:
        """Return the tensors with zeros for what is not sent."""
        drawn = {name: torch.rand(t.shape, generator=here.generator) for name, t in tensors.items()}
        return restricted(tensors, largest(drawn, self.config.rate, self.config.per))

    def adaptive_view(self) -> PublicKnowledge:
        """Return the share that is sent."""
        return PublicKnowledge("random-pruning", {"kept_share": 1.0 - self.config.rate})
