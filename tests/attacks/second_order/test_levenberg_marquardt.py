"""Matrix-free and dense solutions are equal; valleys and small equations are solved."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from attacks.second_order._equations import Equations, Linearisation
from attacks.second_order._levenberg_marquardt import Solution, SolverLimits
from attacks.second_order._levenberg_marquardt import solve as solve_from
from fedsim.core.time_budget import DeadlineReached, time_limit
from tests.attacks.second_order.solved import distances, equations_of, lenet, solve, toy


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_matrix_free_and_dense_solutions_are_equal(size: int) -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), size, classes=10)
    dense, free = solve(observation), solve(observation, dense=0)
    assert dense.notes[0] != free.notes[0]
    assert float(distances(dense, truth).max()) < 1e-6
    assert float(distances(free, truth).max()) < 1e-6


class Zeros:
    """The equations f(x) = 0 of two unknowns."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.unknowns = SimpleNamespace(size=2, project=lambda values, box: values)
        self.prior_precision = self.prior_mean = torch.zeros(2, dtype=torch.float64)
        self.count = 2

    def objective(self, residual: Tensor, values: Tensor) -> float:
        return float(residual.square().sum())

    def residual(self, values: Tensor) -> Tensor:
        return -self.function(values)

    def jacobian(self, values: Tensor) -> Tensor:
        return cast("Tensor", jacrev(self.function)(values)).T

    def linearise(self, values: Tensor) -> Linearisation:
        rows = self.jacobian(values)
        return Linearisation(self.residual(values), lambda change: change @ rows, lambda weights: rows @ weights)


def solve_zeros(function: Callable[[Tensor], Tensor], converged: float) -> Solution:
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    limits = SolverLimits(iterations=60, products=10, dense=100, convergence_threshold=converged)
    return solve_from(cast("Equations", cast("Any", Zeros(function))), start, limits, lambda *_: None)


@pytest.mark.parametrize("dense", [0, 120_000_000])
def test_a_step_that_takes_long_ends_with_the_time(dense: int) -> None:
    """Neither a Jacobian nor products are finished: of large models they take longer than a share of the time."""
    observation, _ = toy(lenet(1, 8, 8), (1, 8, 8), 1, classes=10)
    equations = equations_of(observation)
    start = equations.unknowns.start(torch.Generator().manual_seed(0), 0.1)
    with time_limit(1e-9), pytest.raises(DeadlineReached):
        solve_from(equations, start, SolverLimits(1, 10, dense, 0.0), lambda *_: None)


def test_a_bent_valley_is_followed_in_a_few_steps() -> None:
    found = solve_zeros(lambda x: torch.stack([1.0 - x[0], 100.0 * (x[1] - x[0] ** 2)]), 1e-20)
    assert found.has_converged
    torch.testing.assert_close(found.values, torch.ones(2, dtype=torch.float64))
    assert len(found.history) <= 25  # straight steps take twice as many


def test_what_only_small_equations_tell_is_solved_too() -> None:
    found = solve_zeros(lambda x: torch.stack([x[0] - 3.0, 1e-4 * (x[1] ** 3 - 125.0)]), 1e-3)
    assert found.has_converged
    torch.testing.assert_close(found.values, torch.tensor([3.0, 5.0]).double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dense", [0, 100])
def test_linear_equations_with_a_prior_are_ridge_regression(dense: int) -> None:
    """Minimise |A x - b|^2 + sum of precision (x - mean)^2: (A^T A + P) x = A^T b + P mean."""
    matrix, right = (
        torch.tensor([[2.0, 1.0], [-1.0, 3.0], [0.5, 0.25]]).double(),
        torch.tensor([1.0, 2.0, -3.0]).double(),
    )
    precision, mean = torch.tensor([4.0, 0.5]).double(), torch.tensor([3.0, -2.0]).double()
    equations = Zeros(lambda x: matrix @ x - right)
    equations.count, equations.prior_precision, equations.prior_mean = 3, precision, mean
    equations.objective = lambda residual, x: float(residual.square().sum() + (precision * (x - mean).square()).sum())
    limits = SolverLimits(iterations=60, products=20, dense=dense, convergence_threshold=1e-30)
    found = solve_from(cast("Equations", equations), torch.zeros(2).double(), limits, lambda *_: None)
    expected = torch.linalg.solve(matrix.T @ matrix + precision.diag(), matrix.T @ right + precision * mean)
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-6)
    assert found.is_dense is bool(dense)
