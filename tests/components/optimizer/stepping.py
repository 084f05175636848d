"""Thirty steps of one of our optimizers beside thirty of torch's own."""

from typing import Any

import torch

from fedsim.core import registry
from fedsim.core.hooks import Optimizer


def make(name: str, **settings: Any) -> Optimizer[Any]:
    method = registry.get("component", name)
    return method.make(method.config.model_validate(settings))


def is_torchs_own(optimizer: Optimizer[Any], kind: type[torch.optim.Optimizer], **settings: Any) -> bool:
    """Whether both lead to the same weights, with gradients of fifteen orders of magnitude."""
    numbers = torch.Generator().manual_seed(1)
    parameter = torch.randn(64, generator=numbers, dtype=torch.float64)
    twin = parameter.clone().requires_grad_()
    oracle, state = kind([twin], **settings), {}
    for _ in range(30):
        gradient = torch.randn(64, generator=numbers, dtype=torch.float64) * 10 ** torch.linspace(-12, 3, 64)
        optimizer.step({"w": parameter}, {"w": gradient}, state)
        twin.grad = gradient.clone()
        oracle.step()
    return torch.allclose(parameter, twin, rtol=1e-9, atol=1e-12)
