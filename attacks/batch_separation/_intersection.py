"""Find points of one span whose image under a layer lies in another span, by Levenberg-Marquardt from many starts.

The inputs of a linear layer lie in the row space of its weight gradient; the same holds for the next layer. A point x =
y E of the first space is an input of the batch if act(W x) lies in the second: h equations for few unknowns, with
isolated solutions unless the activation is scale-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.spans import frame_of, part_outside
from attacks.core.tolerances import TWO_WAYS

_STEPS = 60
_FIRST_DAMPING, _EASIER, _HARDER = 1e-2, 0.3, 4.0
_LEAST_DAMPING = 1e-12
_SETTLED = 1e-9
_SILENT = 1e-12


@dataclass(frozen=True)
class InputSpan:
    """Possible inputs x = offset + y directions, y (r,); offset (columns,), directions (r, columns)."""

    offset: Tensor
    directions: Tensor

    def starts(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random y (count, r) with |x - offset| = sqrt(columns), the size of standardised inputs."""
        points = torch.randn((count, len(self.directions)), generator=generator, dtype=self.directions.dtype)
        lengths = (points @ self.directions).norm(dim=1, keepdim=True)
        return points * (math.sqrt(len(self.offset)) / lengths.clamp_min(_SILENT))


def span_rows(rows: Tensor, *, has_bias: bool) -> InputSpan:
    """Return all combinations of rows (r, columns); with a bias only combinations with a last entry of 1."""
    if not has_bias:
        return InputSpan(torch.zeros_like(rows[0]), frame_of(rows))
    last = rows[:, -1]
    frame = torch.linalg.svd(last[None]).Vh[1:] @ rows
    return InputSpan(last / (last @ last) @ rows, frame)


@dataclass(frozen=True)
class Intersection:
    """The problem: find y (r,) for which act(offset + y directions) * kept lies in a row space; all float64.

    Attributes:
        offset: outputs of the first layer at y = 0, shape (h,).
        directions: change of these outputs along every unknown, shape (r, h).
        inputs: the next layer's inputs as an elementwise, differentiable function of the first layer's outputs (N, h).
        frame: orthonormal rows that span the next layer's inputs, shape (R, h).
        kept_units: 1 for compared units, 0 for dropped units, shape (h,).
    """

    offset: Tensor
    directions: Tensor
    inputs: Callable[[Tensor], Tensor]
    frame: Tensor
    kept_units: Tensor

    @classmethod
    def from_layer(
        cls, span: InputSpan, weight: Tensor, inputs: Callable[[Tensor], Tensor], row_space: Tensor
    ) -> Intersection:
        """Return the problem of a layer with this weight (h, columns) and all units kept."""
        kept = torch.ones(len(weight), dtype=weight.dtype)
        return cls(span.offset @ weight.T, span.directions @ weight.T, inputs, row_space, kept)

    def residuals(self, points: Tensor) -> Tensor:
        """Return the parts of the unit vectors a / |a|, a = act(...) * kept, outside the row space: (K, h)."""
        seen = self.inputs(self.offset + points @ self.directions) * self.kept_units
        return self._outside(seen / seen.norm(dim=1, keepdim=True).clamp_min(_SILENT))

    def linearise(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals (K, h) and their derivatives along every unknown, (K, r, h)."""
        seen, slopes = _with_slopes(self.inputs, self.offset + points @ self.directions)
        seen = seen * self.kept_units
        norms = seen.norm(dim=1, keepdim=True).clamp_min(_SILENT)
        unit = seen / norms
        change = self.directions * (slopes * self.kept_units / norms)[:, None]  # (K, r, h)
        change = change - (change @ unit[:, :, None]) * unit[:, None]  # the norm changes as well
        return self._outside(unit), part_outside(change, self.frame)

    def _outside(self, unit: Tensor) -> Tensor:
        is_silent = ~unit.any(1, keepdim=True)  # an all-zero input explains nothing
        return torch.where(is_silent, unit.shape[1] ** -0.5, part_outside(unit, self.frame))


def is_elementwise(inputs: Callable[[Tensor], Tensor], width: int) -> bool:
    """Return whether the functions between two layers of this width act on each unit separately."""
    outputs = torch.randn((2, width), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = outputs.clone()
    mixed[:, ::2] = mixed[:, ::2].flip(0)
    seen, expected = inputs(outputs), inputs(mixed)
    seen[:, ::2] = seen[:, ::2].flip(0)
    return torch.allclose(seen, expected, rtol=TWO_WAYS, atol=1e-12)


def keeps_factor(inputs: Callable[[Tensor], Tensor], width: int, factor: float) -> bool:
    """Return whether the functions between two layers commute with a factor: 2 for ReLU, -1 for odd functions."""
    outputs = torch.randn((1, width), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.allclose(inputs(factor * outputs), factor * inputs(outputs), rtol=TWO_WAYS, atol=1e-12)


def _with_slopes(inputs: Callable[[Tensor], Tensor], outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next layer's inputs for outputs (K, h), and their elementwise derivatives, both (K, h)."""
    outputs = outputs.detach().requires_grad_()
    with torch.enable_grad():
        seen = inputs(outputs)
    [slopes] = torch.autograd.grad(seen.sum(), outputs)
    return seen.detach(), slopes


def solve_points(problem: Intersection, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (K, r) and the norms of their residuals (K,), from starts (K, r)."""
    points = starts.clone()
    residuals, slopes = problem.linearise(points)
    norms = residuals.norm(dim=1)
    damping = torch.full_like(norms, _FIRST_DAMPING)
    for _ in range(_STEPS if points.shape[1] else 0):
        steps = _steps(residuals, slopes, damping)
        tried = points + steps
        tried_norms = problem.residuals(tried).norm(dim=1)
        better = tried_norms < norms
        damping = torch.where(better, damping * _EASIER, damping * _HARDER).clamp_min(_LEAST_DAMPING)
        points = torch.where(better[:, None], tried, points)
        is_settled = bool((steps.norm(dim=1) <= _SETTLED * points.norm(dim=1)).all())
        if is_settled:
            break
        residuals, slopes = problem.linearise(points)
        norms = residuals.norm(dim=1)
    return points, norms


def _steps(residuals: Tensor, slopes: Tensor, damping: Tensor) -> Tensor:
    gram = slopes @ slopes.mT  # (K, r, r)
    scale = gram.diagonal(dim1=1, dim2=2)
    floor = 1e-12 * scale.amax(1, keepdim=True).clamp_min(_SILENT)
    damped = gram + torch.diag_embed(damping[:, None] * scale + floor)
    return -torch.linalg.solve(damped, (slopes @ residuals[:, :, None])).squeeze(2)
