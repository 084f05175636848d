"""The client's loss as a function from targets to output residuals, without knowledge of the loss or its reduction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import Observation

Slope = Callable[[Tensor], Tensor]  # from targets (B, *label_shape) to dL/dz


class UnfitTargets(Exception):
    """The client's loss does not accept targets of this kind or shape."""


def slope_of(observation: Observation, outputs: Tensor, outputs_of: Callable[[Tensor], Tensor]) -> Slope:
    """Return the function from targets to dL/dz at outputs z, differentiable in the targets.

    The returned function raises `UnfitTargets` if the loss does not accept the targets.

    Args:
        observation: gives the loss.
        outputs: z.
        outputs_of: function from z to the model's outputs.
    """

    @torch.enable_grad()
    def slope(targets: Tensor) -> Tensor:
        given = outputs.detach().clone().requires_grad_()
        try:
            loss = observation.loss(outputs_of(given), targets)
            (residuals,) = torch.autograd.grad(loss, given, create_graph=targets.requires_grad, materialize_grads=True)
        except (RuntimeError, ValueError, IndexError) as error:
            raise UnfitTargets from error
        return residuals

    return slope


def outputs_behind(observation: Observation, model: nn.Module, name: str, examples: int) -> Callable[[Tensor], Tensor]:
    """Return the function from a layer's outputs to the model's outputs.

    The model's input is zeros: it has no effect.
    """
    blank = torch.zeros(examples, *observation.spec.shape, dtype=torch.float64)
    model.eval()  # batch statistics of blank examples would not be defined

    def run(outputs: Tensor) -> Tensor:
        with _replace_output(model.get_submodule(name), outputs), disable_dropout():
            return model(blank)

    return run


def identity(outputs: Tensor) -> Tensor:
    return outputs


@contextmanager
def _replace_output(module: nn.Module, outputs: Tensor) -> Iterator[None]:
    """Make a module return these outputs, for any input."""
    handle = module.register_forward_hook(lambda *_: outputs)
    try:
        yield
    finally:
        handle.remove()
