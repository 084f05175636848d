"""Skip connections of U-Nets as modules, which can be located, observed and scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class Skip(nn.Module):
    """A skip connection of a U-Net: concatenates stored encoder features to decoder features along channels."""

    def forward(self, skipped: Tensor, stored: Tensor) -> Tensor:
        """Return both, shape (B, C + S, ...)."""
        return torch.cat((skipped, stored), 1)


def skips_of(model: nn.Module) -> list[Skip]:
    """Return a model's skip connections, in registration order."""
    return [module for module in model.modules() if isinstance(module, Skip)]


@contextmanager
def scaled_skips(model: nn.Module, factor: Callable[[int, int], Tensor | float]) -> Iterator[None]:
    """Multiply stored encoder features by a factor before the decoder uses them; the model is restored afterwards.

    Args:
        model: U-Net whose decoder starts at the lowest resolution.
        factor: maps the index of a skip (0 is used first by the decoder) and the number of skips to a scalar, or to one
            value per row.
    """
    skips = skips_of(model)
    with ExitStack() as stack:
        for number, skip in enumerate(skips):
            scale = factor(number, len(skips))
            stack.callback(skip.register_forward_pre_hook(_make_skip_scaler(scale)).remove)
        yield


def _make_skip_scaler(factor: Tensor | float) -> Callable[[nn.Module, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    def change(_skip: nn.Module, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        skipped, stored = features
        scale = factor.view(-1, *[1] * (stored.ndim - 1)) if isinstance(factor, Tensor) else factor
        return skipped, scale * stored

    return change
