"""Vectors of low rank, and noise."""

import torch
from torch import Tensor


def low_rank(rank: int, height: int = 600, width: int = 100) -> Tensor:
    numbers = torch.Generator().manual_seed(rank)
    left = torch.randn(height, rank, generator=numbers)
    return (left @ torch.randn(rank, width, generator=numbers)).flatten()


def noise(size: int, scale: float) -> Tensor:
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(9))
