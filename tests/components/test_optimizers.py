from typing import Any

import pytest
import torch

from fedsim.core import registry
from fedsim.core.hooks import Optimizer

ORACLES: dict[str, tuple[type[torch.optim.Optimizer], dict[str, float], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"learning_rate": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9}),
    "adam": (
        torch.optim.Adam,
        {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.99},
        {"lr": 0.01, "betas": (0.8, 0.99)},
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_thirty_steps_equal_torchs_own_over_fifteen_orders_of_magnitude(name: str) -> None:
    kind, ours, theirs = ORACLES[name]
    method = registry.get("component", name)
    optimizer: Optimizer[Any] = method.make(method.config.model_validate(ours))
    numbers = torch.Generator().manual_seed(1)
    parameter = torch.randn(64, generator=numbers, dtype=torch.float64)
    twin = parameter.clone().requires_grad_()
    oracle, state = kind([twin], **theirs), {}
    for _ in range(30):
        gradient = torch.randn(64, generator=numbers, dtype=torch.float64) * 10 ** torch.linspace(-12, 3, 64)
        optimizer.step({"w": parameter}, {"w": gradient}, state)
        twin.grad = gradient.clone()
        oracle.step()
    assert torch.allclose(parameter, twin, rtol=1e-9, atol=1e-12)


def test_adam_without_bias_correction_keeps_the_means_as_they_are() -> None:
    method = registry.get("component", "adam")
    plain = method.make(method.config.model_validate({"learning_rate": 0.1, "bias_correction": False}))
    parameter, mean, square = torch.zeros(8), torch.zeros(8), torch.zeros(8)
    expected, state = torch.zeros(8), {}
    for step in range(1, 6):
        gradient = torch.arange(8.0) - step
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected -= 0.1 * mean / (square.sqrt() + 1e-8)
        plain.step({"w": parameter}, {"w": gradient}, state)
    assert torch.allclose(parameter, expected, rtol=1e-5)
