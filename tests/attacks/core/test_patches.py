"""Patches cut and joined, and the position embedding found by what it does."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks.core.patches import Positions, patch_projection, position_embedding, rows_of
from fedsim.core import seeding
from tests.attacks.solving import toy


class Embedded(nn.Module):
    """Patches of an image of 4 x 6 pixels, learned positions with a class token in front, and a mixture of tokens."""

    def __init__(self, linear: bool, positions: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(8, 20) if linear else nn.Conv2d(2, 20, 2, 2)
        self.position = nn.Parameter(torch.randn(7, 20)) if positions else None
        self.token = nn.Parameter(torch.randn(1, 20))
        self.mix = nn.Linear(20, 20)
        self.head = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.project, nn.Linear):
            z = self.project(F.unfold(x, 2, stride=2).mT)
        else:
            z = self.project(x).flatten(2).mT
        z = torch.cat([self.token.expand(len(z), 1, -1), z], 1)
        z = z if self.position is None else z + self.position
        return self.head((z + torch.tanh(self.mix(z))).square().mean(1))


def build(*settings: Any) -> nn.Module:
    with seeding.isolate_randomness(1):
        return Embedded(*settings)


@pytest.mark.parametrize("linear", [False, True])
def test_patches_are_those_that_the_projection_sees(linear) -> None:
    observation, truth = toy(build(linear), (2, 4, 6), 1)
    found = patch_projection(observation)
    assert (found.name, found.width, found.pixels.shape) == ("project", 20, (6, 8))
    example = truth.batches[0].inputs
    patches = found.cut(example)
    assert torch.equal(patches, F.unfold(example, 2, stride=2)[0].T)
    assert torch.equal(found.assemble_example(patches, (2, 4, 6)), example)


@pytest.mark.parametrize("linear", [False, True])
def test_the_position_embedding_explains_the_gradient_of_the_projection(linear) -> None:
    observation, truth = toy(build(linear), (2, 4, 6), 1)
    assert position_embedding(observation) == Positions("position", 1)
    patches = patch_projection(observation)
    rows = rows_of(observation.update.tensors["position"], patches, 1)
    predicted = rows.T @ patches.cut(truth.batches[0].inputs)
    assert torch.allclose(predicted, observation.update.tensors["project.weight"].flatten(1))


def test_without_positions_or_patches_there_is_none() -> None:
    assert position_embedding(toy(build(False, False), (2, 4, 6), 1)[0]) is None
    overlapping = nn.Sequential(nn.Conv2d(2, 4, 3, 1), nn.Flatten(), nn.Linear(32, 4))
    assert patch_projection(toy(overlapping, (2, 4, 6), 1)[0]) is None
