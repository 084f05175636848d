"""The solver against closed forms of two numbers, and against the conditions that hold at the minimum alone."""

import pytest
import torch
from torch import Tensor

from attacks.malicious_server._generalised_lasso import generalised_lasso, neighbours

CHAIN = torch.stack((torch.arange(1, 12), torch.arange(11)))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("strength", "expected"), [(0.5, (1.5, 6.5)), (2.0, (3.0, 5.0)), (3.0, (4.0, 4.0)), (50.0, (4.0, 4.0))]
)
def test_two_numbers_move_towards_each_other_until_they_meet(strength: float, expected: tuple[float, float]) -> None:
    found = generalised_lasso(
        torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 7.0]]).double(), torch.tensor([[0], [1]]), strength, 2000
    )
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("rows", [8, 12, 30])
@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_the_minimum_is_where_no_direction_leads_down(rows: int, strength: float) -> None:
    """On a chain A^T (y - A x) = l D^T z has one z: the running sum. It is the sign of each difference, or between."""
    matrix, values = random(rows, 12, seed=rows), random(3, rows, seed=1)
    found = generalised_lasso(matrix, values, CHAIN, strength, 5000)
    slope = (values - found @ matrix.T) @ matrix
    running = -slope.cumsum(1) / strength
    close = 1e-6  # of what the splitting leaves after so many iterations
    assert bool((running[:, -1].abs() < close / strength).all())
    signs, steps = running[:, :-1], found.diff(dim=1)
    assert bool((signs.abs() <= 1 + close / strength).all())
    moved = steps.abs() > close
    assert bool(moved.any())
    torch.testing.assert_close(signs[moved], steps[moved].sign(), atol=close / strength, rtol=0)


def test_few_differences_come_back_from_half_as_many_measurements_as_entries() -> None:
    flat = torch.tensor([[0.0] * 15 + [2.0] * 14 + [-1.0] * 11], dtype=torch.float64)
    matrix, chain = random(20, 40), torch.stack((torch.arange(1, 40), torch.arange(39)))
    values = flat @ matrix.T
    # The prior draws both edges together by its strength over the squared length of the columns that it moves.
    assert float((generalised_lasso(matrix, values, chain, 1e-3, 5000) - flat).abs().max()) < 1e-3
    shortest = values @ torch.linalg.pinv(matrix).T
    assert float((shortest - flat).abs().max()) > 0.1


def test_neighbours_are_those_of_rows_and_columns_and_not_of_channels() -> None:
    images = random(2, 3, 4, 5)
    first, second = neighbours((3, 4, 5))
    flat = images.flatten(1)
    found = (flat[:, first] - flat[:, second]).abs().sum(1)
    expected = images.diff(dim=2).abs().flatten(1).sum(1) + images.diff(dim=3).abs().flatten(1).sum(1)
    torch.testing.assert_close(found, expected)
    assert len(first) == 3 * (3 * 5 + 4 * 4)
