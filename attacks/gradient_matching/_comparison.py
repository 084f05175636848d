"""How a dummy's gradient is compared with the observed one: the general path, for any torch module.

A row is one dummy batch of one victim; many rows are compared at once. The gradient of a row with respect to the
weights is built explicitly, and only inputs and masks are differentiated a second time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from attacks.core.defense_facts import PLAIN, Wire, wire_of
from attacks.core.layers import run
from attacks.core.unknowns import NOTHING, Values, of_row
from fedsim.core.gradients import gradient_of
from fedsim.core.masks import inject_masks, rescaling, without_dropout
from fedsim.core.types import DropoutSite, Loss, Masks, Observation

_EPSILON = 1e-8


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


Distance = Callable[[Gradients], Tensor]


def cosine(gradients: Gradients) -> Tensor:
    """Return 1 - cosine of whole gradients, shape (R,), in [0, 2] (arXiv 2003.14053, equation 4)."""
    norms = gradients.squared().sum(1).sqrt() * gradients.observed().sum(1).sqrt()
    return 1.0 - gradients.inner().sum(1) / (norms + _EPSILON)


def squared(gradients: Gradients) -> Tensor:
    """Return the squared Euclidean distance of whole gradients, shape (R,) (arXiv 1906.08935, equation 4)."""
    return gradients.difference().sum(1)


@dataclass(frozen=True)
class SimulatedClient:
    """What all victims of one computation share.

    Attributes:
        model: the search's own copy, with the weights that the victims received, in the mode of the search.
        names: trained parameters whose gradients are compared.
        sites: dropout sites of one row.
        wire: which part of the gradients is compared, and in which form.
    """

    model: nn.Module
    loss: Loss
    names: tuple[str, ...]
    sites: tuple[DropoutSite, ...]
    wire: Wire = PLAIN

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The compared parameters, detached."""
        return {name: self.model.get_parameter(name).detach() for name in self.names}

    def outputs(self, inputs: Tensor, masks: Masks, weights: Mapping[str, Tensor], others: Values = NOTHING) -> Tensor:
        """Return the model's outputs (B, K) for one row, with some of its weights replaced.

        Override it, or `dropping`, where other unknowns than dropout masks act on a forward pass.
        """
        with self.dropping(masks, others):
            return run(self.model, inputs, weights)

    def dropping(self, masks: Masks, others: Values = NOTHING) -> AbstractContextManager[None]:
        """Return the context of a forward pass with these masks, or without dropout when there are none.

        The factor of kept entries is multiplied into the masks: that takes two operations an iteration, not five.
        """
        if not masks:
            return without_dropout()
        scaled = tuple(mask * rescaling(site) for mask, site in zip(masks, self.sites, strict=True))
        return inject_masks(self._unscaled, scaled)

    @cached_property
    def _unscaled(self) -> tuple[DropoutSite, ...]:
        return tuple(replace(site, rate=0.0) for site in self.sites)


def setting_of(observation: Observation, sites: tuple[DropoutSite, ...], batch_statistics: bool) -> SimulatedClient:
    """Return the setting of a search, with its own copy of the model; the observed model is not changed.

    Its activations work out of place: the outputs of the layers in front of them are needed unchanged.
    """
    model = copy.deepcopy(observation.model).train(batch_statistics).requires_grad_(False)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    names = tuple(name for name, _ in model.named_parameters() if name in observation.update.tensors)
    return SimulatedClient(model, observation.loss, names, sites, wire_of(observation))


class GeneralComparison:
    """Compares one row after the other, for any module, also for those that mix the examples of a batch."""

    name = "general"

    def __init__(self, setting: SimulatedClient, observations: Sequence[Observation]) -> None:
        """Keep references to the observed tensors; nothing is copied."""
        self._setting = setting
        self._weights = {name: p.clone().requires_grad_() for name, p in setting.parameters.items()}
        self.like = next(iter(setting.parameters.values()))
        arrived = [[o.update.tensors[name].to(self.like.device) for name in setting.names] for o in observations]
        self._targets = [[setting.wire.target(tensor) for tensor in tensors] for tensors in arrived]
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
        return ExplicitGradients(as_sent(self._setting.wire, rows, targets), targets, self._norms[list(victims)])

    def _gradient(self, inputs: Tensor, masks: Masks, labels: Tensor, others: Values) -> tuple[Tensor, ...]:
        outputs = self._setting.outputs(inputs, masks, self._weights, others)
        loss = self._setting.loss(outputs, labels)
        return tuple(gradient_of(loss, self._weights, create_graph=True).values())


def as_sent(wire: Wire, rows: list[tuple[Tensor, ...]], targets: list[list[Tensor]]) -> list[tuple[Tensor, ...]]:
    """Return the rows' gradients as the known defenses would have sent them."""
    if wire.is_plain:
        return rows
    pairs = zip(rows, targets, strict=True)
    return [tuple(wire.dummy(g, t) for g, t in zip(row, target, strict=True)) for row, target in pairs]


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
