"""Shifted images counted by hand on a model that knows one pixel."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Batch
from fedsim.questions.membership.types import MembershipObservation
from tests.attacks.membership.linear import Make, observed, scored


class Centre(nn.Module):
    """Says 1 where the pixel in the middle is bright."""

    def forward(self, inputs: Tensor) -> Tensor:
        middle = inputs[:, 0, 2, 2]
        return torch.stack([0.5 - middle, middle - 0.5], 1)


def seen(images: Tensor) -> MembershipObservation:
    labels = torch.ones(len(images), dtype=torch.long)
    return replace(observed(), candidates=Batch(images, labels), model=Centre(), weights=((1, {}),))


def dot(row: int, column: int) -> Tensor:
    image = torch.zeros(1, 5, 5)
    image[0, row, column] = 1.0
    return image


@pytest.mark.parametrize(("distance", "copies"), [(1, 5), (2, 13)])
def test_each_shift_of_a_distance_is_made_once(attack_of: Make, distance: int, copies: int) -> None:
    bright = torch.ones(1, 1, 5, 5)
    assert scored(attack_of("label-shifts", distance=distance), seen(bright)) == [copies]


@pytest.mark.paper_step("label-shifts", "labels of shifted images")
def test_a_dot_gets_to_the_middle_by_one_shift_if_it_is_near_enough(attack_of: Make) -> None:
    images = torch.stack([dot(2, 2), dot(1, 2), dot(3, 3), dot(2, 0), dot(1, 4)])  # 0, 1, 2, 2 and 3 pixels away
    assert scored(attack_of("label-shifts", distance=2), seen(images)) == [1, 1, 1, 1, 0]


def test_what_comes_in_is_the_edge(attack_of: Make) -> None:
    edge = torch.zeros(1, 1, 5, 5)
    edge[..., 0] = 1.0  # two shifts to the right bring the edge to column 2
    assert scored(attack_of("label-shifts", distance=2), seen(edge)) == [1]


def test_rows_of_a_table_are_refused(attack_of: Make) -> None:
    with pytest.raises(NotApplicable, match="no rows and columns"):
        attack_of("label-shifts")(observed(), seeding.generator(1, "x"))
