"""Networks with every kind of dropout."""

import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import seeding
from fedsim.core.nets.masks import prefix_dropout


class Everything(nn.Module):
    """Module, functional, channel and attention dropout in one model."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.linear = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=rate, batch_first=True)
        self.channels = nn.Dropout2d(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.linear(x), self.rate, training=self.training)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + F.scaled_dot_product_attention(x, x, x, dropout_p=self.rate if self.training else 0.0, is_causal=True)
        return self.channels(self.encoder(x)[..., None]).flatten(1)


def build(rate: float = 0.3) -> tuple[Everything, torch.Tensor]:
    with seeding.isolate_randomness(5):
        return Everything(rate), torch.randn(4, 5, 8)


class Prefix(nn.Module):
    """Keeps a random prefix of eight features."""

    ODDS = (0.4, 0.3, 0.2, 0.1)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return prefix_dropout(self.linear(x), self.ODDS, self.training)
