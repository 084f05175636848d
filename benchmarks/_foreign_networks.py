"""Ten networks as other people write them: nothing in them comes from fedsim, and none was changed for it.

They read digits of 8 x 8 pixels, and answer with the scores of ten classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

_PIXELS, _CLASSES = 64, 10


class ResidualDense(nn.Module):
    """Dense blocks that add to what they read, with dropout as a function."""

    def __init__(self, width: int = 128, blocks: int = 2, rate: float = 0.25, pixels: int = _PIXELS) -> None:
        super().__init__()
        self.rate = rate
        self.stem = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.dropout(F.silu(self.stem(images.flatten(1))), self.rate, self.training)
        for block in self.blocks:
            hidden = hidden + F.dropout(F.silu(block(hidden)), self.rate, self.training)
        return self.head(hidden)


class Gated(nn.Module):
    """A dense network whose units are switched by others."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(_PIXELS, width), nn.Linear(_PIXELS, width)
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.head(self.value(flat) * self.gate(flat).sigmoid())


class Attending(nn.Module):
    """PyTorch's encoder layer over rows of pixels, averaged."""

    def __init__(self, width: int = 32, rate: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.encoder = nn.TransformerEncoderLayer(width, 4, 64, rate, activation="gelu", batch_first=True)
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(images[:, 0])).mean(1))


class Recurrent(nn.Module):
    """A GRU that reads one row of pixels after the other."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cells = nn.GRU(8, width, batch_first=True)
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(cast("Tensor", self.cells(images[:, 0])[0])[:, -1])


class Mixing(nn.Module):
    """An MLP-Mixer of one block over patches of 2 x 2 pixels."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.across, self.within = nn.Linear(16, 16), nn.Linear(width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + F.gelu(self.across(self.norm(tokens).transpose(1, 2))).transpose(1, 2)
        return self.head((tokens + F.gelu(self.within(self.norm(tokens)))).mean(1))


class Skipping(nn.Module):
    """Two convolutions with group normalisation and a skip connection."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm, self.body = nn.GroupNorm(2, width), nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 16, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.silu(self.norm(self.stem(images)))
        hidden = hidden + F.silu(self.body(hidden))
        return self.head(F.avg_pool2d(hidden, 2).flatten(1))


def _dense(*activations: type[nn.Module], width: int = 128, rate: float = 0.0) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(_PIXELS, width)]
    for activation in activations:
        layers += [activation(), nn.Dropout(rate), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, _CLASSES))


def _convolutions(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), activation(), nn.Conv2d(12, 24, 3, 2, 1), activation(), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(96, _CLASSES),
    )  # fmt: skip


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "residual dense, SiLU, dropout 0.25": ResidualDense,
    "gated dense": Gated,
    "dense, ReLU": lambda: _dense(nn.ReLU),
    "dense, Mish, dropout 0.5": lambda: _dense(nn.Mish, nn.Mish, rate=0.5),
    "encoder layer over rows, dropout 0.1": Attending,
    "GRU over rows": Recurrent,
    "MLP-Mixer": Mixing,
    "convolutions, tanh, dropout 0.3": lambda: _convolutions(nn.Tanh),
    "convolutions, leaky ReLU, dropout 0.3": lambda: _convolutions(nn.LeakyReLU),
    "convolutions with group normalisation and a skip": Skipping,
}
