"""Decoder from cut-layer activations to inputs, and critic of distributions of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_HIDDEN = 128
_SLOPE = 0.2


def decoder(width: int, shape: tuple[int, ...]) -> nn.Module:
    """Return a network from vectors (N, width) to inputs (N, *shape), initialised from torch's global generator."""
    size = torch.Size(shape).numel()
    return nn.Sequential(
        nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, size),
        nn.Unflatten(1, shape),
    ).double()  # fmt: skip


def critic(width: int, depth: int) -> nn.Module:
    """Return a network from vectors (N, width) to scores (N, 1), with `depth` hidden layers."""
    layers = list[nn.Module]()
    for number in range(depth):
        layers += [nn.Linear(width if number == 0 else _HIDDEN, _HIDDEN), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers, nn.Linear(_HIDDEN, 1)).double()


def mismatch(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples (N, width) and (M, width), over five kernels."""
    joined = torch.cat([first, second])
    distances = torch.cdist(joined, joined).square()
    scale = distances.mean().detach().clamp_min(1e-12)
    kernels = sum(torch.exp(-distances / (factor * scale)) for factor in (0.25, 0.5, 1.0, 2.0, 4.0))
    assert isinstance(kernels, Tensor)
    count = len(first)
    return kernels[:count, :count].mean() + kernels[count:, count:].mean() - 2 * kernels[:count, count:].mean()
