from typing import Any

import pytest
import torch

from fedsim import registry
from fedsim.hooks import Optimizer

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
