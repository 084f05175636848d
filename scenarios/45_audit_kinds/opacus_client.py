"""A client that trains with Opacus: the audit receives the objects that make_private returns."""

from typing import Any

import torch
from digits import digits
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader


def make_private(noise_multiplier: float = 1.0, max_grad_norm: float = 1.0) -> tuple[Any, ...]:
    """Return model, optimizer and loader, private."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(digits(), batch_size=4),
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
    )


def make_open() -> tuple[Any, ...]:
    """Return the same without noise, and with a bound that clips nothing: the control."""
    return make_private(noise_multiplier=0.0, max_grad_norm=1e6)
