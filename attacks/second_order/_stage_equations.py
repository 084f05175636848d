"""Equations of one stage of a chain, or of all stages from one on: its outputs, and the gradients of its weights."""

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
_ON = 1e-4  # relative to the root mean square of a ReLU's output: smaller outputs may be rounding


class Blindness(NamedTuple):
    """Null directions of a stage's input.

    Attributes:
        scales: number of invisible scales: 0; 1 for the scale of the whole batch; or one for each example.
        lattice: whether a constant per channel at the positions (2 i, 2 j) is invisible.
    """

    scales: int = 0
    lattice: bool = False


SEES_ALL = Blindness()


@dataclass(frozen=True)
class StageOutput:
    """Known output of a stage, up to the null directions of the next stage.

    Attributes:
        values: outputs after the ReLU if one follows, shape (B, ...).
        cotangent: derivative of the loss by the values.
        is_known: mask of known values.
        blind: null directions of the next stage.
    """

    values: Tensor
    cotangent: Tensor
    is_known: Tensor
    blind: Blindness = SEES_ALL


@dataclass(frozen=True)
class StageUnknowns:
    """Layout of the unknowns: the input, then the components of the output that the next stage does not show.

    Attributes:
        shape: shape of the input, (B, ...).
        scales: number of scales.
        channels: number of constants on the lattice.
    """

    shape: tuple[int, ...]
    scales: int = 0
    channels: int = 0

    @property
    def inputs(self) -> int:
        """Number of entries of the input."""
        return torch.Size(self.shape).numel()

    @property
    def size(self) -> int:
        """Number of all unknowns."""
        return self.inputs + self.scales + self.channels

    def project(self, values: Tensor, box: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the unknowns unchanged."""
        return values

    def split(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input, logarithms of scales, and constants."""
        inputs, scales, constants = values.split([self.inputs, self.scales, self.channels])
        return inputs.view(self.shape), scales, constants

    def start(self, inputs: Tensor) -> Tensor:
        """Return unknowns (n,) for an input, with zero log scales and constants."""
        return torch.cat([inputs.flatten(), inputs.new_zeros(self.scales + self.channels)])


@dataclass(frozen=True)
class SizePrior:
    """A weak prior on the mean square of a stage's input with an invisible scale."""

    weight: float
    size: float


class StageEquations:
    """Equations of consecutive stages, each tensor divided by the norm of its known part.

    Attributes:
        unknowns: layout of the unknowns.
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
        """Weight the equations.

        Args:
            stages: consecutive stages.
            shape: shape of the input, (B, ...).
            output: known output of the last stage.
            received: gradients by name.
            prior: prior on the input's size, if its scale is hardly visible.
            blind: null directions of the stages' input.
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
        return torch.cat([push_all_forward(self._equations, values, chunk) for chunk in directions])

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
            outputs = stage_outputs(self._stages, weights, inputs)
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


def stage_outputs(stages: Sequence[Stage], weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return the outputs of consecutive stages for inputs (B, ...), before the ReLU that may follow the last."""
    *first, last = stages
    for stage in first:
        inputs = stage.close(stage.apply(weights, inputs))
    return last.apply(weights, inputs)
