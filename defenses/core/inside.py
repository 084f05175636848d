"""Further forward passes within a local step that leave the client's model unchanged."""

from __future__ import annotations

from torch import Tensor
from torch.func import functional_call

from fedsim.core.hooks import LocalStep


def outputs_of(local: LocalStep, inputs: Tensor) -> Tensor:
    """Return the model's outputs under the step's dropout masks; buffers (running statistics) do not change."""
    buffers = {name: buffer.clone() for name, buffer in local.model.named_buffers()}
    with local.apply_masks():
        return functional_call(local.model, buffers, (inputs,))


def weight_of(layer: str) -> str:
    """Return the name of a layer's weight."""
    return f"{layer}.weight" if layer else "weight"
