"""Layers that process M samples per example in training, (B, M, ...), but a single sample in evaluation, (B, ...)."""

from __future__ import annotations

from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = nn.MaxPool2d | nn.AvgPool2d
_MAP = 4  # dimensions of a batch of feature maps


@final
class Samples(nn.Module):
    """Repeats its input M times, then applies its layer to each sample.

    Args:
        layer: a dropout, flattening or pooling layer.
        samples: M.
        flips: whether every second sample is mirrored horizontally.
        shifts: whether each sample is padded with its own number of zero rows and columns, at top and left, before
            pooling.
    """

    def __init__(self, layer: nn.Module, samples: int, *, flips: bool, shifts: bool) -> None:
        super().__init__()
        self.layer = layer
        self._samples, self._flips, self._shifts = samples, flips, shifts

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return self.layer(features)
        if self._flips and features.dim() != _MAP:
            raise ValueError(f"flip_half needs feature maps, but its layer gets shape {tuple(features.shape)}")
        samples = features.unsqueeze(1).expand(-1, self._samples, *features.shape[1:])
        if self._flips:
            mirrored = torch.arange(self._samples).remainder(2).view(1, -1, 1, 1, 1).bool()
            samples = torch.where(mirrored.to(features.device), samples.flip(-1), samples)
        return self._pool(samples) if isinstance(self.layer, Pooling) else self.layer(samples)

    def _pool(self, samples: Tensor) -> Tensor:
        if not self._shifts:
            return self.layer(samples.flatten(0, 1)).unflatten(0, samples.shape[:2])
        stride = _stride(self.layer)
        places = [divmod(sample % stride**2, stride) for sample in range(self._samples)]
        height, width = samples.shape[-2:]
        moved = [F.pad(samples[:, m], (x, 0, y, 0))[..., :height, :width] for m, (y, x) in enumerate(places)]
        return torch.stack([self.layer(sample) for sample in moved], 1)


def _stride(layer: nn.Module) -> int:
    stride = layer.stride
    return int(stride[0]) if isinstance(stride, tuple) else int(cast("int", stride))


@final
class FlattenSamples(nn.Module):
    """A flattening layer that keeps the samples' dimension in training."""

    def __init__(self, layer: nn.Flatten) -> None:
        super().__init__()
        self._start, self._end = layer.start_dim, layer.end_dim

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(self._start + self.training, self._end)
