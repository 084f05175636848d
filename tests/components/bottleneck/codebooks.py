"""Codebooks, and networks with them."""

from typing import Any

import torch
from torch import Tensor, nn

from fedsim.components.bottleneck._codebook import CodebookLayer
from fedsim.components.bottleneck.codebook import Codebook, CodebookConfig


def layer(width: int = 6, **settings: Any) -> CodebookLayer:
    given = {"codes": 50, "active": 3, "groups": 1, "similarity": "dot", "combine": "mean", "loss": "base",
             "beta": 0.25, "penalty": 0.0, "penalty_norm": 2.0, "first_active": None, "decay_steps": 2,
             "revive_after": 0, "revive_noise": 1e-4, **settings}  # fmt: skip
    return CodebookLayer("there", width, **given, generator=torch.Generator().manual_seed(0)).double()


def activations(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)).double()


def prepared(model: nn.Module, **settings: Any) -> nn.Module:
    component = Codebook(CodebookConfig.model_validate({"codes": 20, "active": 2, **settings}))
    return component.prepare(model, torch.Generator().manual_seed(0)).double()
