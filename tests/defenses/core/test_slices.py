"""Sensitivities against Jacobians row by row, and slices of equal weight."""

import pytest
import torch
import torch.nn.functional as F

from defenses.core.slices import sensitivities, slices_of
from tests.defenses.stepping import local_step


def test_an_empty_batch_is_sensitive_to_nothing() -> None:
    assert set(sensitivities(local_step(examples=0)).values()) == {0.0}


def test_slices_have_equal_shares_of_the_sensitivity() -> None:
    found = slices_of({"a": 1.0, "b": 3.0}, {"a": 4, "b": 6}, 4)
    assert found["a"].tolist() == [0, 0, 0, 0]
    assert found["b"].tolist() == [1, 1, 2, 2, 3, 3]
    even = slices_of({"a": 0.0, "b": 0.0}, {"a": 4, "b": 6}, 5)
    assert [*even["a"].tolist(), *even["b"].tolist()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_sensitivities_are_the_mean_norms_of_slopes_of_summed_gradients() -> None:
    """Example by example: the gradient of its own loss, summed, and differentiated by its inputs."""
    local = local_step()
    found = sensitivities(local)
    parameters = list(local.parameters.values())
    for number, name in enumerate(local.parameters):
        norms = []
        for row in range(len(local.batch)):
            inputs = local.batch.inputs[row : row + 1].clone().requires_grad_()
            loss = F.cross_entropy(local.model(inputs), local.batch.labels[row : row + 1])
            gradient = torch.autograd.grad(loss, parameters, create_graph=True)[number]
            norms.append(float(torch.autograd.grad(gradient.sum(), inputs)[0].norm()))
        # Single precision; the sum over the output layer's gradient is zero, so that its slope is rounding alone.
        assert found[name] == pytest.approx(sum(norms) / len(norms), rel=1e-4, abs=1e-6)
        assert found[name] < 1e-6 or not name.startswith("last")
