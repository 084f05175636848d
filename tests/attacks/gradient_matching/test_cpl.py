"""The squared distance, and a term that pulls the output to the label."""

import pytest
import torch.nn.functional as F

from tests.attacks.gradient_matching.lenets import sigmoid_lenet, squared_distance
from tests.attacks.solving import attacked, toy


@pytest.mark.paper_step("cpl", "label term of the objective")
def test_its_objective_has_a_term_of_the_label() -> None:
    observation, _ = toy(sigmoid_lenet(), (1, 6, 6), 1)
    found = attacked("cpl", observation, max_iterations=2, inner=3, restarts=0, stream=3)
    outputs = observation.model(found.inputs).detach()
    label = float((outputs.softmax(1) - F.one_hot(found.labels, 4)).square().sum())
    assert found.objective == pytest.approx(squared_distance(observation, found) + 0.01 * label, rel=1e-9)
    assert found.best_iteration in (1, 2)
