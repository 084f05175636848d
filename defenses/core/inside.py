"""A second look into a local step: forward passes that leave no trace in the client's model."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from fedsim.core.hooks import LocalStep


def outputs_of(local: LocalStep, inputs: Tensor) -> Tensor:
    """Return the model's outputs with the dropout masks of the step; buffers such as running statistics stay."""
    buffers = {name: buffer.clone() for name, buffer in local.model.named_buffers()}
    with local.dropping():
        return functional_call(local.model, buffers, (inputs,))


def linear_end(model: nn.Module) -> str | None:
    """Return the name of the last module with parameters of its own if it is a trained linear layer, else None."""
    owners = [(name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    name, module = owners[-1] if owners else ("", model)
    return name if type(module) is nn.Linear and module.weight.requires_grad else None


def weight_of(layer: str) -> str:
    """Return the name of a layer's weight."""
    return f"{layer}.weight" if layer else "weight"
