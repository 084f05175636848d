"""random-pruning: sends randomly chosen entries and sets the others to zero (random-k).

Idea: The control for pruning: the same number of entries, chosen independently of their size. Every step samples anew.
Equation: sent = m * g, where m has exactly k ones at random positions; nothing is rescaled.
Assumes: a server that sees a single gradient and does not know which entries were sent.
Protects: more than top-k at the same rate, since large entries are missing too.
Fails: against matching on the sent entries alone.
Source: Stich et al. 2018, arXiv 1809.07599, section 2 (rand-k).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from defenses.core.support import SupportConfig, largest, zero_outside
from defenses.core.tensors import TensorDefense
from fedsim.core.hooks import Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import Sparsified


class RandomPruningConfig(SupportConfig):
    """Settings of random pruning."""


@final
@defense(
    "random-pruning",
    summary="sends entries drawn at random (random-k)",
    tier="baseline",
    paper="1809.07599",
    fidelity="variant",
    deviates="without the paper's memory of unsent entries",
    paper_steps=(
        ("k random entries are sent", "RandomPruning.change"),
        ("memory of unsent entries", ""),
    ),
    aliases=("random-k",),
)
class RandomPruning(TensorDefense[RandomPruningConfig]):
    """Sends exactly k entries."""

    place: ClassVar[Place] = "entries"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the tensors, with zeros for entries that are not sent."""
        uniforms = {name: torch.rand(t.shape, generator=context.generator) for name, t in tensors.items()}
        return zero_outside(tensors, largest(uniforms, self.config.rate, self.config.per))

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return the projection on the sent entries."""
        support = {name: tensor != 0 for name, tensor in sent.items()}
        return Distortion(change=lambda tensors: zero_outside(tensors, support), reads_sent=True)

    def adaptive_view(self) -> MethodDescription:
        """Return the share that is sent."""
        return MethodDescription("random-pruning", (Sparsified(1.0 - self.config.rate),) if self.config.rate else ())
