"""The model that one attack of the family needs and the zoo does not hold."""

from __future__ import annotations

from torch import nn

from fedsim.core.registry import for_scenarios
from fedsim.core.types import InputSpec

_SLOPE = 0.2
_CHANNELS = (4, 6)


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
