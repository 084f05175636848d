"""How a dummy's gradient is compared with the observed one: the general path, for any torch module.

A row is one dummy batch of one victim; many rows are compared at once. The gradient of a row with respect to the
weights is built explicitly, and only inputs and masks are differentiated a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.core.defense_facts import Wire
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Values, of_row
from fedsim.core.gradients import gradient_of
from fedsim.core.types import Masks, Observation


class Gradients(Protocol):
    """Gradients of R rows and the observed ones, T tensors each; every figure has shape (R, T)."""

    def inner(self) -> Tensor:
        """Inner products with the observed gradient."""
        ...

    def squared(self) -> Tensor:
        """Squared norms."""
        ...

    def difference(self) -> Tensor:
        """Squared norms of the difference to the observed gradient."""
        ...

    def observed(self) -> Tensor:
        """Squared norms of the observed gradient."""
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
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], others: Values = NOTHING
    ) -> Gradients:
        """Compare rows, differentiably in inputs, masks and other unknowns.

        Args:
            inputs: shape (R, B, *shape).
            masks: one per site, shape (R, *site.shape); empty for forward passes without dropout.
            labels: classes (R, B), or their probabilities (R, B, K).
            victims: index of the victim of each row.
            others: values of the other unknowns, by the name of their block, shape (R, ...).
        """
        ...


class GeneralComparison:
    """Compares one row after the other, for any module, also for those that mix the examples of a batch."""

    name = "general"

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation]) -> None:
        """Keep references to the observed tensors; nothing is copied."""
        self._client = client
        self._weights = {name: p.clone().requires_grad_() for name, p in client.parameters.items()}
        self.like = next(iter(client.parameters.values()))
        arrived = [[o.update.tensors[name].to(self.like.device) for name in client.names] for o in observations]
        self._targets = [[client.wire.as_compared(tensor) for tensor in tensors] for tensors in arrived]
        self._norms = squared_norms(self._targets)

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], others: Values = NOTHING
    ) -> Gradients:
        """Compute each row's gradient explicitly."""
        rows = [
            self._gradient(
                inputs[row],
                tuple(mask[row] for mask in masks),
                labels[row],
                of_row(others, row),
            )
            for row in range(len(inputs))
        ]
        targets = [self._targets[victim] for victim in victims]
        return ExplicitGradients(rows_as_sent(self._client.wire, rows, targets), targets, self._norms[list(victims)])

    def _gradient(self, inputs: Tensor, masks: Masks, labels: Tensor, others: Values) -> tuple[Tensor, ...]:
        outputs = self._client.outputs(inputs, masks, self._weights, others)
        loss = self._client.loss(outputs, labels)
        return tuple(gradient_of(loss, self._weights, create_graph=True).values())


def rows_as_sent(wire: Wire, rows: list[tuple[Tensor, ...]], targets: list[list[Tensor]]) -> list[tuple[Tensor, ...]]:
    """Return the rows' gradients as the known defenses would have sent them."""
    if wire.is_plain:
        return rows
    pairs = zip(rows, targets, strict=True)
    return [tuple(wire.as_sent(g, t) for g, t in zip(row, target, strict=True)) for row, target in pairs]


def squared_norms(targets: list[list[Tensor]]) -> Tensor:
    """Return the squared norms of T observed tensors of V victims, shape (V, T)."""
    return torch.stack([torch.stack([tensor.square().sum() for tensor in target]) for target in targets])


@dataclass(frozen=True)
class ExplicitGradients:
    """Gradients that were built, T tensors each, with the observed gradients of each row's victim.

    Attributes:
        norms: squared norms of the observed tensors, shape (R, T).
    """

    rows: list[tuple[Tensor, ...]]
    targets: list[list[Tensor]]
    norms: Tensor

    def inner(self) -> Tensor:
        """Inner products with the observed gradient."""
        return self._each(lambda g, t: (g * t).sum())

    def squared(self) -> Tensor:
        """Squared norms."""
        return self._each(lambda g, _: g.square().sum())

    def difference(self) -> Tensor:
        """Squared norms of the difference to the observed gradient."""
        return self._each(lambda g, t: (g - t).square().sum())

    def observed(self) -> Tensor:
        """Squared norms of the observed gradient."""
        return self.norms

    def absolute(self, factors: Tensor) -> Tensor:
        """Sums of absolute differences to the observed gradient, each row multiplied by its factor (R,) before."""
        scaled = [tuple(factor * g for g in row) for factor, row in zip(factors, self.rows, strict=True)]
        return replace(self, rows=scaled)._each(lambda g, t: (g - t).abs().sum())

    def _each(self, figure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        pairs = zip(self.rows, self.targets, strict=True)
        return torch.stack(
            [torch.stack([figure(g, t) for g, t in zip(row, target, strict=True)]) for row, target in pairs]
        )
