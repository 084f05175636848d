"""Models that single attacks of the family need and the zoo does not hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.core.registry import for_scenarios
from fedsim.core.types import InputSpec

_PATCH = 2
_FEATURES = 48
_HEADS = 4
_SLOPE = 0.2
_CHANNELS = (4, 6)


class _Attention(nn.Module):
    def __init__(self, spec: InputSpec, dropout: float) -> None:
        super().__init__()
        channels, height, width = spec.shape
        tokens = (height // _PATCH) * (width // _PATCH)
        self.project = nn.Conv2d(channels, _FEATURES, _PATCH, _PATCH)
        self.position = nn.Parameter(torch.randn(1, tokens, _FEATURES))
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.MultiheadAttention(_FEATURES, _HEADS, batch_first=True)
        self.body = nn.Sequential(nn.Linear(_FEATURES, _FEATURES), nn.GELU(), nn.Linear(_FEATURES, _FEATURES))
        self.head = nn.Linear(_FEATURES, spec.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.dropout(self.project(inputs).flatten(2).transpose(1, 2) + self.position)
        seen = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((seen + self.body(seen)).mean(1))


@for_scenarios
def attention(spec: InputSpec, dropout: float) -> nn.Module:
    """Build one attention block that sees the embedded patches directly: no skip, no normalisation in front."""
    return _Attention(spec, dropout)


@for_scenarios
def chain(spec: InputSpec, dropout: float) -> nn.Module:
    """Build two convolutions of stride 1 with an invertible activation, dropout and a linear head."""
    channels, height, width = spec.shape
    layers: list[nn.Module] = []
    for outputs in _CHANNELS:
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE)]
        channels = outputs
    head = nn.Linear(channels * height * width, spec.classes)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), head)
