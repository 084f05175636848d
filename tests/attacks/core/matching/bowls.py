"""Comparisons of gradients that are the dummies themselves, so that the lowest point of each victim is known."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.core.matching.unknowns import NOTHING, Values
from fedsim.core.types import Masks


@dataclass(frozen=True)
class Distances:
    """Figures of rows whose gradient is the dummy itself."""

    rows: Tensor
    targets: Tensor

    def inner(self) -> Tensor:
        return (self.rows * self.targets).sum(1, keepdim=True)

    def squared_norms(self) -> Tensor:
        return self.rows.square().sum(1, keepdim=True)

    def difference(self) -> Tensor:
        return (self.rows - self.targets).square().sum(1, keepdim=True)

    def observed_squared_norms(self) -> Tensor:
        return self.targets.square().sum(1, keepdim=True)


@dataclass
class Bowls:
    """A bowl a victim, and how many rows each call had."""

    targets: Tensor
    name: str = "bowls"
    like: Tensor = field(default_factory=lambda: torch.zeros(1))
    rows: list[int] = field(default_factory=list)

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], others: Values = NOTHING
    ) -> Distances:
        self.rows.append(len(inputs))
        flat = inputs.flatten(1) * (masks[0].flatten(1) if masks else 1.0)
        return Distances(flat, self.targets[list(victims)].flatten(1))
