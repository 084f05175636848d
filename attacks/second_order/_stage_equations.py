"""The equations of one stage of a chain, or of all from one on: what it returns, and the gradients of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from attacks.core.tolerances import TINY
from attacks.second_order._derivatives import push_all_forward
from attacks.second_order._equations import Linearisation
from attacks.second_order._residual_chain import Stage

_COLUMNS = 64  # of the Jacobian at once
_ON = 1e-4  # of the root mean square of what a ReLU returned: less may be rounding


class Blindness(NamedTuple):
    """What a stage does not show of its input.

    Attributes:
        scales: 0; or 1 for the scale of the whole batch, or one for each example.
        lattice: whether a constant a channel at the places (2 i, 2 j) is invisible.
    """

    scales: int = 0
    lattice: bool = False


SEES_ALL = Blindness()


@dataclass(frozen=True)
class StageOutput:
    """What is known of a stage's output, but for what the stage behind it does not show.

    Attributes:
        values: behind the ReLU if one follows, shape (B, ...).
        cotangent: derivative of the loss by them.
        is_known: which of them are known.
        blind: what the stage behind does not show of them.
    """

    values: Tensor
    cotangent: Tensor
    is_known: Tensor
    blind: Blindness = SEES_ALL


@dataclass(frozen=True)
class StageUnknowns:
    """Where the unknowns stand: the input, then what the stage behind does not show of the output.

    Attributes:
        shape: of the input, (B, ...).
        scales: number of scales.
        channels: of the constants on the lattice.
    """

    shape: tuple[int, ...]
    scales: int = 0
    channels: int = 0

    @property
    def inputs(self) -> int:
        """Entries of the input."""
        return torch.Size(self.shape).numel()

    @property
    def size(self) -> int:
        """All unknowns."""
        return self.inputs + self.scales + self.channels

    def project(self, values: Tensor, box: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the unknowns as they are."""
        return values

    def split(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input, logarithms of scales, and constants."""
        inputs, scales, constants = values.split([self.inputs, self.scales, self.channels])
        return inputs.view(self.shape), scales, constants

    def start(self, inputs: Tensor) -> Tensor:
        """Return unknowns (n,) for an input, without a scale or a constant."""
        return torch.cat([inputs.flatten(), inputs.new_zeros(self.scales + self.channels)])


@dataclass(frozen=True)
class SizePrior:
    """A weak belief in the mean square of a blind stage's input."""

    weight: float
    size: float


class StageEquations:
    """Equations of consecutive stages, each tensor divided by the norm of what is known of it.

    Attributes:
        unknowns: their layout.
        count: number of equations.
        prior_mean: unused, zeros.
        prior_precision: unused, zeros.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        shape: tuple[int, ...],
        output: StageOutput,
        received: Mapping[str, Tensor],
        prior: SizePrior | None = None,
        blind: Blindness = SEES_ALL,
    ) -> None:
        """Weigh the equations.

        Args:
            stages: one behind the other.
            shape: of the input, (B, ...).
            output: what is known behind the last one.
            received: gradients by name.
            prior: on the input's size, if its scale is hardly visible.
            blind: what the stages do not show of the input.
        """
        channels = output.values.shape[1] if output.blind.lattice else 0
        self.unknowns = StageUnknowns(shape, output.blind.scales, channels)
        self._stages, self._output, self._prior, self._blind = stages, output, prior, blind
        self._weights = {name: weight for stage in stages for name, weight in stage.weights().items()}
        self._received = {name: received[name] for name in self._weights}
        sizes = {name: float(tensor.norm().clamp_min(TINY)) for name, tensor in self._received.items()}
        self._factors = torch.cat(
            [torch.full((tensor.numel(),), 1.0 / sizes[name]) for name, tensor in self._received.items()]
        ).double()
        self._targets = torch.cat([tensor.flatten() for tensor in self._received.values()]) * self._factors
        self._is_on = output.is_known
        self._lattice = torch.zeros(())
        if stages[-1].is_gated:
            self._is_on = output.is_known & (output.values > _ON * output.values.square().mean().sqrt())
        if output.blind.lattice:
            self._lattice = torch.zeros(output.values.shape[2:], dtype=torch.float64)
            self._lattice[::2, ::2] = 1.0
        self._size = float((output.values * output.is_known).norm().clamp_min(TINY))
        self.prior_mean = self.prior_precision = torch.zeros(self.unknowns.size, dtype=torch.float64)
        priors = blind.scales if prior is not None else 0
        self.count = output.values.numel() + len(self._targets) + priors

    def objective(self, residual: Tensor, values: Tensor) -> float:
        """Return the sum of squares of the residual."""
        return float(residual.square().sum())

    @torch.no_grad()
    def residual(self, values: Tensor) -> Tensor:
        """Return the weighted residual, shape (count,)."""
        return -self._equations(values)

    @torch.no_grad()
    def misfit(self, values: Tensor) -> float:
        """Return the sum of squares without the prior."""
        return float(self._fit(values).square().sum())

    def linearise(self, values: Tensor) -> Linearisation:
        """Return the equations at a point with products of their Jacobian."""
        point = values.detach().requires_grad_()
        equations = self._equations(point)
        dummy = torch.zeros_like(equations, requires_grad=True)
        (transposed,) = torch.autograd.grad(equations, point, dummy, create_graph=True)
        return Linearisation(
            -equations.detach(),
            lambda change: torch.autograd.grad(transposed, dummy, change, retain_graph=True)[0],
            lambda weights: torch.autograd.grad(equations, point, weights, retain_graph=True)[0],
        )

    def jacobian(self, values: Tensor) -> Tensor:
        """Return the transposed Jacobian, shape (n, count), by forward over reverse."""
        directions = torch.eye(len(values), dtype=values.dtype).split(_COLUMNS)
        return torch.cat([push_all_forward(self._equations, values, some) for some in directions])

    def _equations(self, values: Tensor) -> Tensor:
        rows = self._fit(values)
        if self._prior is None:
            return rows
        inputs = self.unknowns.split(values)[0]
        squares = inputs.square().view(self._blind.scales, -1).mean(1)
        return torch.cat([rows, self._prior.weight * (squares / self._prior.size).log()])

    def _fit(self, values: Tensor) -> Tensor:
        inputs, scales, constants = self.unknowns.split(values)
        factors = (-scales).exp().view(-1, *[1] * (self._output.values.ndim - 1)) if len(scales) else 1.0
        cotangent = factors * self._output.cotangent * self._is_on

        def of_weights(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            outputs = through(self._stages, weights, inputs)
            return (outputs * cotangent).sum(), outputs

        gradients, outputs = grad(of_weights, has_aux=True)(self._weights)
        outputs = factors * outputs
        if self._stages[-1].is_gated:
            outputs = torch.where(self._is_on, outputs, outputs.relu())
        if len(constants):
            outputs = outputs - constants[:, None, None] * self._lattice
        missing = ((outputs - self._output.values * self._is_on) * self._output.is_known).flatten() / self._size
        rows = torch.cat([gradients[name].flatten() for name in self._received]) if self._received else missing[:0]
        return torch.cat([missing, rows * self._factors - self._targets])


def through(stages: Sequence[Stage], weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return what inputs (B, ...) become behind stages, in front of the ReLU that may follow the last."""
    *first, last = stages
    for stage in first:
        inputs = stage.close(stage.apply(weights, inputs))
    return last.apply(weights, inputs)
