"""The label from the last layer, then the squared distance alone."""

import pytest

from tests.attacks.gradient_matching.lenets import sigmoid_lenet, squared_distance
from tests.attacks.solving import attacked, toy


def test_its_objective_is_the_squared_distance() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    found = attacked("idlg", observation, max_iterations=2, inner=3, restarts=0, stream=3)
    assert found.objective == pytest.approx(squared_distance(observation, found), rel=1e-9)
    assert found.best_iteration in (1, 2)
