"""Derivatives along directions, against those of a polynomial by hand."""

import torch
from torch import Tensor

from attacks.second_order._derivatives import push_all_forward, push_forward


def cubes(values: Tensor) -> Tensor:
    return torch.stack([values[0] ** 3, values[0] * values[1]])


def test_the_derivative_along_a_direction_is_the_jacobian_times_it() -> None:
    point = torch.tensor([2.0, 5.0], dtype=torch.float64)
    jacobian = torch.tensor([[12.0, 0.0], [5.0, 2.0]], dtype=torch.float64)
    direction = torch.tensor([0.5, -1.0], dtype=torch.float64)
    assert torch.equal(push_forward(cubes, point, direction), jacobian @ direction)
    assert torch.equal(push_all_forward(cubes, point, torch.eye(2, dtype=torch.float64)), jacobian.T)
