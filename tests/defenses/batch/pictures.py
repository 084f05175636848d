"""Pictures of noise."""

import torch


def images(count: int = 3, channels: int = 2, height: int = 6, width: int = 9) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0))
