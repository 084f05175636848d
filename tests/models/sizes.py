"""Sizes of a model and of its masks, and inputs for it."""

from math import prod

import torch
from torch import Tensor, nn

from fedsim.core.nets import masks
from fedsim.core.types import InputSpec


def spec(*shape: int, classes: int = 10) -> InputSpec:
    return InputSpec(shape, classes, (0.0,) * shape[0], (1.0,) * shape[0])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def mask_values(model: nn.Module, *shape: int) -> tuple[int, int]:
    """Number of mask tensors, and of mask values per image."""
    sites = masks.dropout_sites(model, shape, 1)
    return len(sites), sum(prod(site.shape) for site in sites)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
