"""Directions that equations leave open, by hand."""

import pytest
import torch
from torch import Tensor

from attacks.second_order._open_directions import leave_open


def square(rows: list[list[float]]) -> Tensor:
    jacobian = torch.tensor(rows, dtype=torch.float64)
    return jacobian.T @ jacobian


def test_equations_that_say_the_same_leave_a_direction_open() -> None:
    assert leave_open(square([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]]), 2)
    assert not leave_open(square([[1.0, 2.0], [2.0, 4.0], [-1.0, -1.0]]), 2)


def test_a_pixel_that_a_mask_can_follow_is_open_and_a_mask_alone_is_not_asked() -> None:
    follows = square([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])  # the second pixel and the mask have one equation
    assert leave_open(follows, 2)
    assert not leave_open(square([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), 2)


def test_a_pixel_that_no_layer_reads_is_not_asked() -> None:
    assert not leave_open(square([[1.0, 0.0, 2.0], [2.0, 0.0, -1.0]]), 3)
    assert leave_open(square([[1.0, 0.0, 2.0], [2.0, 0.0, 4.0]]), 3)


@pytest.mark.parametrize("least", [1e-5, 1.0])
def test_weak_equations_are_equations(least: float) -> None:
    source = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(50, 50, generator=source, dtype=torch.float64)).Q
    sizes = torch.logspace(0, float(torch.tensor(least).log10()), 50, dtype=torch.float64)
    assert not leave_open(frame @ sizes.square().diag() @ frame.T, 40)
    sizes[7] = 0.0
    assert leave_open(frame @ sizes.square().diag() @ frame.T, 50)
