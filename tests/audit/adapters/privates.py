"""Clients that train with Opacus."""

from typing import Any

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH, EXAMPLES = 8, 40


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(5)
    coarse = torch.rand(EXAMPLES, 1, 4, 4, generator=source)
    images = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    return images, torch.randint(4, (EXAMPLES,), generator=source)


def private(
    noise: float = 1.0,
    clip: float = 0.5,
    engine: PrivacyEngine | None = None,
    parts: tuple[torch.Tensor, ...] | None = None,
    **more: Any,
) -> tuple[Any, ...]:
    """Return what a project has that calls make_private."""
    torch.manual_seed(0)
    data = TensorDataset(*(parts or tensors()))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))
    return (engine or PrivacyEngine()).make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        data_loader=DataLoader(data, batch_size=BATCH),
        noise_multiplier=noise,
        max_grad_norm=clip,
        **more,
    )
