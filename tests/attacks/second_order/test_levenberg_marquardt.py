"""Matrix-free and dense solutions are equal."""

import pytest

from tests.attacks.second_order.solved import Toy, distances, lenet, solve


@pytest.mark.parametrize("size", [1, 2])
def test_matrix_free_and_dense_solutions_are_equal(toy: Toy, size: int) -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), size, classes=10)
    dense, free = solve(observation), solve(observation, dense=0)
    assert dense.notes[0] != free.notes[0]
    assert float(distances(dense, truth).max()) < 1e-6
    assert float(distances(free, truth).max()) < 1e-6
