"""Flatten an update into the vector that is sent, summed and masked by secure aggregation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.core.types import Tensors


@dataclass(frozen=True)
class _Part:
    name: str
    shape: torch.Size
    dtype: torch.dtype


class Layout:
    """Names and shapes of the tensors in a model's update: trainable parameters, then floating-point buffers.

    Attributes:
        buffers: names of the buffers.
        parameters: number of trainable values, which come first in the vector.
        size: length of the vector.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store the order of the model's parameters and of its state dict."""
        stored = model.state_dict()
        trainable = [_Part(name, p.shape, p.dtype) for name, p in model.named_parameters() if p.requires_grad]
        buffers = [
            _Part(name, b.shape, b.dtype)
            for name, b in model.named_buffers()
            if name in stored and b.is_floating_point()
        ]
        self._parts = (*trainable, *buffers)
        self._lengths = [part.shape.numel() for part in self._parts]
        self.buffers = tuple(part.name for part in buffers)
        self.parameters = sum(self._lengths[: len(trainable)])
        self.size = sum(self._lengths)

    def flat(self, tensors: Tensors, buffers: Tensors) -> Tensor:
        """Return tensors by name as a vector, in the widest of their types and at least single precision."""
        if not self._parts:
            return torch.empty(0)
        all_tensors = {**tensors, **buffers}
        vector = torch.cat([all_tensors[part.name].reshape(-1) for part in self._parts])
        return vector.to(torch.promote_types(vector.dtype, torch.float32))

    def unflatten(self, vector: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return (trainable tensors, buffers) by name: the bitwise inverse of `flat`."""
        pieces = vector.split(self._lengths)
        tensors = {p.name: piece.view(p.shape).to(p.dtype) for p, piece in zip(self._parts, pieces, strict=True)}
        return tensors, {name: tensors.pop(name) for name in self.buffers}
