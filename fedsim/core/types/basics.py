"""Types of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


Masks = tuple[Tensor, ...]


Memory = dict[str, dict[str, Tensor]]  # a client's memory between rounds: owner -> name -> tensor


Loss = Callable[[Tensor, Tensor], Tensor]


Draws = Mapping[str, Tensor]  # draws of components and task in a step, by "component.name" and "task.name"
