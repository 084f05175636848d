"""An update as one flat vector: what travels, what servers add up, what secure aggregation masks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from fedsim.types import Tensors


@dataclass(frozen=True)
class _Part:
    name: str
    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True)
class Layout:
    """Names and shapes of what an update of one model carries: trainable parameters, then floating-point buffers.

    Attributes:
        parameters: number of trainable values, the first of the vector.
        size: length of the vector.
    """

    _parameters: tuple[_Part, ...]
    _buffers: tuple[_Part, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Return the layout of a model's updates, in the order of its parameters and of its state dict."""
        stored = model.state_dict()
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        buffers = {name: b for name, b in model.named_buffers() if name in stored and b.is_floating_point()}
        return cls(
            tuple(_Part(name, p.shape, p.dtype) for name, p in parameters.items()),
            tuple(_Part(name, b.shape, b.dtype) for name, b in buffers.items()),
        )

    @property
    def parameters(self) -> int:
        """Number of trainable values."""
        return sum(part.shape.numel() for part in self._parameters)

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.parameters + sum(part.shape.numel() for part in self._buffers)

    def flat(self, tensors: Tensors, buffers: Tensors) -> Tensor:
        """Return tensors by name as one vector, in the widest of their types."""
        pieces = [tensors[part.name].reshape(-1) for part in self._parameters]
        pieces += [buffers[part.name].reshape(-1) for part in self._buffers]
        return torch.cat(pieces) if pieces else torch.empty(0)

    def named(self, vector: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return (trainable tensors, buffers) by name: the inverse of `flat`, bit by bit."""
        parts = (*self._parameters, *self._buffers)
        ends = list(accumulate(part.shape.numel() for part in parts))
        tensors = {
            part.name: vector[end - part.shape.numel() : end].view(part.shape).to(part.dtype)
            for part, end in zip(parts, ends, strict=True)
        }
        buffers = {part.name: tensors.pop(part.name) for part in self._buffers}
        return tensors, buffers
