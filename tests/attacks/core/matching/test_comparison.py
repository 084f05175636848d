"""Distances of gradients by hand."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from attacks.core.matching.comparison import cosine, squared


@dataclass
class Pair:
    """Two tensors of one row beside the observed ones."""

    own: tuple[Tensor, Tensor]
    seen: tuple[Tensor, Tensor]

    def _figure(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values)[None]

    def inner(self) -> Tensor:
        return self._figure([(a * b).sum() for a, b in zip(self.own, self.seen, strict=True)])

    def squared(self) -> Tensor:
        return self._figure([a.square().sum() for a in self.own])

    def difference(self) -> Tensor:
        return self._figure([(a - b).square().sum() for a, b in zip(self.own, self.seen, strict=True)])

    def observed(self) -> Tensor:
        return self._figure([b.square().sum() for b in self.seen])


PAIR = Pair(
    own=(torch.tensor([3.0, 4.0]), torch.tensor([100.0, 0.0])),
    seen=(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])),
)


def test_distances_of_two_tensors_are_those_by_hand() -> None:
    whole = 109.0 / (math.sqrt(25.0 + 10_000.0) * math.sqrt(9.0 + 2.0))
    assert float(cosine(PAIR)) == pytest.approx(1.0 - whole)
    assert float(squared(PAIR)) == pytest.approx(16.0 + 99.0**2 + 1.0)
