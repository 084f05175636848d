"""Comparison of a dummy input's gradient with the observed gradient: the general path, for any torch module.

A row is the dummy inputs for a batch of a victim; many rows are compared at once. The gradient of a row with respect
to the weights is computed explicitly, and only inputs and masks are differentiated a second time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Values, select_row
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.types import Masks, Observation, Tensors


class Gradients(Protocol):
    """Gradients of R rows and the observed gradients, T tensors each; every result has shape (R, T)."""

    def inner(self) -> Tensor:
        """Return inner products with the observed gradient."""
        ...

    def squared_norms(self) -> Tensor:
        """Return squared norms."""
        ...

    def difference(self) -> Tensor:
        """Return squared norms of the difference to the observed gradient."""
        ...

    def observed_squared_norms(self) -> Tensor:
        """Return squared norms of the observed gradient."""
        ...


class Comparison(Protocol):
    """Computes the gradients of rows.

    Attributes:
        name: name of the path, for the record.
        like: a tensor of the model's type and device.
    """

    name: str
    like: Tensor

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], variables: Values = NOTHING
    ) -> Gradients:
        """Compare rows, differentiably in inputs, masks and other unknowns.

        Args:
            inputs: shape (R, B, *shape).
            masks: one per site, shape (R, *site.shape); empty for forward passes without dropout.
            labels: classes (R, B), or their probabilities (R, B, K).
            victims: index of the victim of each row.
            variables: values of the other unknowns, by the name of their block, shape (R, ...).
        """
        ...


class RowComparison(ABC):
    """Computes the gradients of the rows one after the other. Subclasses define `gradient`.

    Attributes:
        client: the simulated client.
    """

    name: str

    def __init__(self, client: SimulatedClient, observed: Sequence[Tensors]) -> None:
        """Store the observed gradient of each victim; its tensors are kept, not copied."""
        self.client = client
        self.like = next(iter(client.parameters.values()))
        device, wire = self.like.device, client.wire
        self._targets = [[wire.as_compared(tensors[name].to(device)) for name in client.names] for tensors in observed]
        self._norms = squared_norms(self._targets)

    @abstractmethod
    def gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values, victim: int
    ) -> tuple[Tensor, ...]:
        """Return the gradient that the client would send for one row, a tensor for each of its names, differentiably.

        Args:
            inputs: shape (B, *shape).
            masks: one per site, shape (*site.shape).
            labels: classes (B,), or their probabilities (B, K).
            variables: values of the other unknowns.
            victim: index of the victim.
        """

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], variables: Values = NOTHING
    ) -> Gradients:
        """Compare rows as in `Comparison`."""
        wire, targets = self.client.wire, [self._targets[victim] for victim in victims]
        rows = [
            self.gradient(
                inputs[row], tuple(mask[row] for mask in masks), labels[row], select_row(variables, row), victim
            )
            for row, victim in enumerate(victims)
        ]
        if not wire.is_plain:
            pairs = zip(rows, targets, strict=True)
            rows = [tuple(wire.as_sent(g, t) for g, t in zip(row, target, strict=True)) for row, target in pairs]
        return ExplicitGradients(rows, targets, self._norms[list(victims)])


class GeneralComparison(RowComparison):
    """Computes the gradient of any module, including modules that mix the examples of a batch."""

    name = "general"

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation]) -> None:
        """Keep references to the observed tensors; nothing is copied."""
        super().__init__(client, [observation.update.tensors for observation in observations])
        self.weights = {name: p.clone().requires_grad_() for name, p in client.parameters.items()}

    def gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values, victim: int
    ) -> tuple[Tensor, ...]:
        """Return the gradient of the client's loss."""
        return self.differentiate_loss(
            self.client.loss(self.client.outputs(inputs, masks, self.weights, variables), labels)
        )

    def differentiate_loss(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return the gradient of a loss with respect to the weights."""
        return tuple(gradient_of(loss, self.weights, create_graph=True).values())


def squared_norms(targets: list[list[Tensor]]) -> Tensor:
    """Return the squared norms of T observed tensors of V victims, shape (V, T)."""
    return torch.stack([torch.stack([tensor.square().sum() for tensor in target]) for target in targets])


@dataclass(frozen=True)
class ExplicitGradients:
    """Explicit gradients, T tensors each, with the observed gradients of each row's victim.

    Attributes:
        norms: squared norms of the observed tensors, shape (R, T).
    """

    rows: list[tuple[Tensor, ...]]
    targets: list[list[Tensor]]
    norms: Tensor

    def inner(self) -> Tensor:
        """Return inner products with the observed gradient."""
        return self._pairwise(lambda g, t: (g * t).sum())

    def squared_norms(self) -> Tensor:
        """Return squared norms."""
        return self._pairwise(lambda g, _: g.square().sum())

    def difference(self) -> Tensor:
        """Return squared norms of the difference to the observed gradient."""
        return self._pairwise(lambda g, t: (g - t).square().sum())

    def observed_squared_norms(self) -> Tensor:
        """Return squared norms of the observed gradient."""
        return self.norms

    def absolute(self, factors: Tensor) -> Tensor:
        """Return sums of absolute differences to the observed gradient, after scaling each row by its factor (R,)."""
        scaled = [tuple(factor * g for g in row) for factor, row in zip(factors, self.rows, strict=True)]
        return replace(self, rows=scaled)._pairwise(lambda g, t: (g - t).abs().sum())

    def _pairwise(self, figure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        pairs = zip(self.rows, self.targets, strict=True)
        return torch.stack(
            [torch.stack([figure(g, t) for g, t in zip(row, target, strict=True)]) for row, target in pairs]
        )
