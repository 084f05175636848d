"""Small vision transformers with dropout in front of their blocks."""

import torch
from torch import nn

from fedsim.core import seeding

SHAPE = (2, 8, 8)


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, dropout behind learned positions, one pre-norm block, the mean of the tokens."""

    def __init__(self, *, rate: float = 0.5, width: int = 64, patch: int = 4, inner: float = 0.0, bias: bool = True):
        super().__init__()
        self.project = nn.Conv2d(2, width, patch, patch, bias=bias)
        self.position = nn.Parameter(torch.randn((8 // patch) ** 2, width))
        self.drop = nn.Dropout(rate)
        self.body = nn.TransformerEncoderLayer(width, 4, 32, dropout=inner, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.drop(self.project(x).flatten(2).transpose(1, 2) + self.position)
        return self.head(self.body(tokens).mean(1))


def build(kind: type[Transformer] = Transformer, **settings: object) -> Transformer:
    with seeding.isolate_randomness(3):
        return kind(**settings)
