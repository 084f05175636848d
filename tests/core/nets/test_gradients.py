"""Gradients by name and their distance."""

import math

import pytest
import torch
from torch import nn

from fedsim.core.nets.gradients import cosine_distance, gradient_of


def test_a_gradient_has_every_name_and_zeros_where_the_loss_does_not_depend_on_a_parameter() -> None:
    layer, other = nn.Linear(2, 1), nn.Parameter(torch.ones(3))
    inputs = torch.tensor([[1.0, 2.0]])
    gradient = gradient_of(layer(inputs).sum(), {**dict(layer.named_parameters()), "other": other})
    assert {name: own.tolist() for name, own in gradient.items()} == {
        "weight": [[1.0, 2.0]],
        "bias": [1.0],
        "other": [0.0, 0.0, 0.0],
    }


def test_a_gradient_may_be_differentiated_itself() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    (slope,) = gradient_of(weight**3, {"weight": weight}, create_graph=True).values()
    assert float(gradient_of(slope, {"weight": weight})["weight"]) == 18.0


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 0.0), (-1.0, 2.0)], ids=["same direction", "opposite"])
def test_lengths_do_not_count(factor: float, expected: float) -> None:
    ours = [torch.tensor([1.0, 2.0]).double(), torch.tensor([[3.0]]).double()]
    assert cosine_distance(ours, [factor * own for own in ours]) == pytest.approx(expected, abs=1e-12)


def test_it_is_one_less_the_cosine_of_all_tensors_together() -> None:
    ours, theirs = [torch.tensor([1.0, 0.0]), torch.tensor([1.0])], [torch.tensor([1.0, 2.0]), torch.tensor([0.0])]
    assert cosine_distance(ours, theirs) == pytest.approx(1.0 - 1.0 / math.sqrt(10.0), rel=1e-6)


@pytest.mark.parametrize("both", [False, True])
def test_a_zero_gradient_is_as_far_as_an_orthogonal_one(both: bool) -> None:
    zero, other = [torch.zeros(2)], [torch.zeros(2) if both else torch.ones(2)]
    assert cosine_distance(zero, other) == cosine_distance(other, zero) == 1.0


def test_a_small_angle_is_not_lost_in_rounding() -> None:
    angle = 1e-9
    ours = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    theirs = [torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)]
    assert cosine_distance(ours, theirs) == pytest.approx(0.5 * angle**2, rel=1e-6)
