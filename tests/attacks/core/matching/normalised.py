"""A network with batch normalisation."""

import torch
from torch import nn

from fedsim.core import seeding


def normalised(dropout: float = 0.25) -> nn.Module:
    """A network with batch normalisation whose running statistics are those of some noise."""
    with seeding.isolate_randomness(1):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Sigmoid(),
            nn.Dropout(dropout),
            nn.Conv2d(6, 4, 3, 2, padding=1),
            nn.BatchNorm2d(4),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(64, 4),
        )
        for _ in range(30):
            model(torch.randn(16, 1, 8, 8))
    return model
