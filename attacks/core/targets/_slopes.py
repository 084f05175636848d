"""The client's loss, asked which residual a target has: no loss is known by name, nor whether it is a mean or a sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedsim.core.masks import without_dropout
from fedsim.core.types import Observation

Slope = Callable[[Tensor], Tensor]  # from targets (B, *label_shape) to dL/dz


class UnfitTargets(Exception):
    """The client's loss does not take targets of this kind or shape."""


def slope_of(observation: Observation, outputs: Tensor, behind: Callable[[Tensor], Tensor]) -> Slope:
    """Return the function that gives dL/dz at outputs z for targets, differentiable by these.

    Args:
        observation: gives the loss.
        outputs: z.
        behind: what the model makes of them.
    """

    @torch.enable_grad()
    def slope(targets: Tensor) -> Tensor:
        given = outputs.detach().clone().requires_grad_()
        try:
            loss = observation.loss(behind(given), targets)
            (residuals,) = torch.autograd.grad(loss, given, create_graph=targets.requires_grad, materialize_grads=True)
        except (RuntimeError, ValueError, IndexError) as error:
            raise UnfitTargets from error
        return residuals

    return slope


def outputs_behind(observation: Observation, model: nn.Module, name: str, examples: int) -> Callable[[Tensor], Tensor]:
    """Return what the model makes of a layer's outputs; what is in front does not matter, so it sees zeros."""
    blank = torch.zeros(examples, *observation.spec.shape, dtype=torch.float64)
    model.eval()  # batch statistics of blank examples would not be defined

    def run(outputs: Tensor) -> Tensor:
        with _returning(model.get_submodule(name), outputs), without_dropout():
            return model(blank)

    return run


def unchanged(outputs: Tensor) -> Tensor:
    return outputs


@contextmanager
def _returning(module: nn.Module, outputs: Tensor) -> Iterator[None]:
    """Have a module return these outputs, whatever it reads."""
    handle = module.register_forward_hook(lambda *_: outputs)
    try:
        yield
    finally:
        handle.remove()
