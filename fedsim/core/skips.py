"""Where a U-Net's decoder takes up what its encoder stored: places that others find, watch and change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class Skip(nn.Module):
    """Puts a stored feature behind the feature that comes up, as channels. A U-Net has one for each of its skips."""

    def forward(self, up: Tensor, stored: Tensor) -> Tensor:
        """Return both, shape (B, C + S, ...)."""
        return torch.cat((up, stored), 1)


def skips_of(model: nn.Module) -> list[Skip]:
    """Return the places of a model, in the order in which it holds them."""
    return [module for module in model.modules() if isinstance(module, Skip)]


@contextmanager
def scaled_skips(model: nn.Module, factor: Callable[[int, int], Tensor | float]) -> Iterator[None]:
    """Multiply what a U-Net stored by a factor before it is taken up, and leave the model as it was afterwards.

    Args:
        model: its decoder takes up the lowest resolution first.
        factor: of the number of a skip, from 0 for the one that is taken up first, and of how many there are; a number,
            or one for each row of a batch.
    """
    skips = skips_of(model)
    with ExitStack() as stack:
        for number, skip in enumerate(skips):
            scale = factor(number, len(skips))
            stack.callback(skip.register_forward_pre_hook(_multiplied(scale)).remove)
        yield


def _multiplied(factor: Tensor | float) -> Callable[[nn.Module, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    def change(_skip: nn.Module, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        up, stored = features
        scale = factor.view(-1, *[1] * (stored.ndim - 1)) if isinstance(factor, Tensor) else factor
        return up, scale * stored

    return change
