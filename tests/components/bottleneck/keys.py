"""Small bottlenecks of keys and values."""

from typing import Any

import torch
from torch import Tensor, nn

from fedsim.components.bottleneck.key_value_bottleneck import (
    KeyValueBottleneck,
    KeyValueBottleneckConfig,
    bottleneck_of,
)
from fedsim.components.core.key_value import KeyValueModel


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.GELU(), nn.Dropout(0.5), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))


def component(**settings: Any) -> KeyValueBottleneck:
    given = {"codebooks": 3, "pairs": 7, "key_width": 4, **settings}
    return KeyValueBottleneck(KeyValueBottleneckConfig.model_validate(given))


def prepared(model: nn.Module | None = None, **settings: Any) -> KeyValueModel:
    made = component(**settings).prepare(model or network(), torch.Generator().manual_seed(0))
    return bottleneck_of(made.double().train())
