"""The factor between an update and the mean gradient of its steps, and the update as that gradient."""

import pytest
import torch

from attacks.core.mean_gradient import as_gradient, gradient_weight
from tests.federating import watched


def test_a_step_counts_as_often_as_momentum_carries_it_on() -> None:
    training = {"algorithm": "fedavg", "local_steps": 3, "optimizer": {"name": "sgd", "momentum": 0.9}}
    observation, _, _ = watched(federation=training)
    # Of three steps the first is in the update 1 + 0.9 + 0.81 times, the second 1 + 0.9 times, the last once.
    assert gradient_weight(observation) == pytest.approx(0.1 * (2.71 + 1.9 + 1.0))
    plain, _, _ = watched(federation={**training, "optimizer": {"name": "sgd"}})
    assert gradient_weight(plain) == pytest.approx(0.1 * 3)
    gradient, _, _ = watched()
    assert gradient_weight(gradient) == 1.0


def test_one_plain_step_as_a_gradient_is_the_gradient() -> None:
    gradient, _, _ = watched()
    stepped, _, _ = watched(federation={"algorithm": "fedavg", "local_steps": 1, "optimizer": {"name": "sgd"}})
    found = as_gradient(stepped).update
    assert found.kind == "gradient"
    for name, tensor in gradient.update.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    assert as_gradient(gradient).update.tensors.keys() == found.tensors.keys()
