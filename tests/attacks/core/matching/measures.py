"""Distances with their defaults, victims of a plan, and gradients by hand."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.matching.descent import VictimGroup
from attacks.core.matching.distances.cosine import CosineDistance
from attacks.core.matching.distances.squared import SquaredDistance
from attacks.core.matching.terms import DistanceConfig
from fedsim.core.types import Observation

cosine, squared = CosineDistance(DistanceConfig()), SquaredDistance(DistanceConfig())


def alone(observation: Observation) -> VictimGroup:
    """The victim of a plan, whose labels are those that are known."""
    return VictimGroup([observation], [] if observation.labels is None else [observation.labels], [], [])


@dataclass
class Pair:
    """Two tensors of one row beside the observed ones."""

    own: tuple[Tensor, Tensor]
    seen: tuple[Tensor, Tensor]

    def _figure(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values)[None]

    def inner(self) -> Tensor:
        return self._figure([(a * b).sum() for a, b in zip(self.own, self.seen, strict=True)])

    def squared_norms(self) -> Tensor:
        return self._figure([a.square().sum() for a in self.own])

    def difference(self) -> Tensor:
        return self._figure([(a - b).square().sum() for a, b in zip(self.own, self.seen, strict=True)])

    def observed_squared_norms(self) -> Tensor:
        return self._figure([b.square().sum() for b in self.seen])


PAIR = Pair(
    own=(torch.tensor([3.0, 4.0]), torch.tensor([100.0, 0.0])),
    seen=(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])),
)
