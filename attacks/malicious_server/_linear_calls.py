"""Inputs and outputs of a model's linear layers, and the rescaling by dropout in front of a layer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.layers import run
from fedsim.core.nets.layer_calls import inputs_in_order, layer_outputs, read_by
from fedsim.core.nets.masks import disable_dropout, keep_masks
from fedsim.core.types import Observation

PROBES = 4


class LinearCall(NamedTuple):
    """A linear layer in a forward pass without dropout.

    Attributes:
        name: name of the module.
        read: its input, shape (PROBES, ...).
        gave: its output, shape (PROBES, ...).
    """

    name: str
    read: Tensor
    gave: Tensor


def probes(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the inputs of `linear_calls`, shape (PROBES, *shape)."""
    images = torch.rand((PROBES, *shape), generator=torch.Generator().manual_seed(0))
    return images.to(next(model.parameters()))


def linear_calls(model: nn.Module, shape: tuple[int, ...]) -> list[LinearCall] | str:
    """Return the calls of linear layers on `probes` in their order, or why the model does not run."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    try:
        with (
            torch.no_grad(),
            disable_dropout(),
            inputs_in_order(model, (nn.Linear,)) as seen,
            layer_outputs(model, names) as outputs,
        ):
            run(model, probes(model, shape))
    except (RuntimeError, TypeError) as error:
        return f"the model does not run on an image: {error}"
    return [LinearCall(name, read, gave) for (name, read), (_, gave) in zip(seen, outputs, strict=True)]


def lacks_relu(call: LinearCall, next_call: LinearCall) -> str | None:
    """Return a clause if a layer and the next are not separated by a plain ReLU, else None."""
    if torch.equal(call.gave.relu(), next_call.read):
        return None
    return f"layer '{call.name}' is not followed by a plain ReLU (for model 'mlp' set activation = 'relu')"


def lacks_bias(model: nn.Module, name: str) -> str | None:
    """Return a clause if a linear layer has no bias, else None."""
    if model.get_submodule(name).bias is not None:
        return None
    return f"layer '{name}' has no bias (for model 'mlp' set bias = true)"


@torch.no_grad()
def kept_scale(observation: Observation, layer: str) -> float:
    """Return the factor by which dropout rescales kept inputs of a layer, at the attacker's rate; 1 without dropout."""
    probe = torch.zeros(1, *observation.spec.shape).to(next(observation.model.parameters()))
    model, generator = observation.model.train(), torch.Generator().manual_seed(0)
    (whole,) = read_by(model, [layer], probe, disable_dropout())
    with keep_masks(generator):
        (dropped,) = read_by(model, [layer], probe, nullcontext())
    kept = dropped != 0
    return float((dropped[kept] / whole[kept]).max()) if kept.any() else 1.0
