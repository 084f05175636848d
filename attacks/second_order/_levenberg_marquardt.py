"""Levenberg-Marquardt: damped Gauss-Newton steps (J^T J + damping * scale * I) s = J^T r, dense or matrix-free.

If the matrix is formed, a step is also bent: the second derivative along s gives an acceleration a by the same matrix,
and s + a / 2 is used if it lowers the objective more. (Geodesic acceleration: Transtrum, Sethna 2012, arXiv 1201.5885.)
Further steps use products, with the matrix of an earlier point as preconditioner, as long as that is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from attacks.second_order._equations import Linearisation
from fedsim.core.time_budget import check_deadline

_FIRST_DAMPING, _EASE, _TIGHTEN, _TRIES = 1e-2, 0.2, 4.0, 8
_AGAIN = 0.25  # a formed matrix is used again while it lowers the objective to this share
_QUICK = 50  # unknowns per iteration of a step near a matrix: it needs half the time of forming another matrix
_STILL = 1.0 - 1e-6  # a step that leaves a larger share of the objective is the last
_SETTLED = 1e-3  # in units of an unknown: largest further change at a solution
_BEND = 0.1  # share of a step for its second difference: rounding divided by its square is still negligible
_PROBES = 4
_LOOSEST = 1e-2  # relative residual of conjugate gradients in the first steps


class SolverLimits(NamedTuple):
    """Limits of a solution.

    Attributes:
        iterations: largest number of linearisations.
        products: largest number of conjugate-gradient iterations per step.
        dense: largest number of entries of the Jacobian; larger Jacobians are never formed.
        convergence_threshold: objective below which the equations hold up to rounding. Steps continue until the next
            step would hardly change the unknowns, since unknowns that only small equations determine may still be
            wrong.
        box: least and greatest values of pixels, or None without a range.
        damping: damping of the first step.
        still: a step that leaves a larger share of the objective is the last.
    """

    iterations: int
    products: int
    dense: int
    convergence_threshold: float
    box: tuple[Tensor, Tensor] | None = None
    damping: float = _FIRST_DAMPING
    still: float = _STILL


class Solution(NamedTuple):
    """Result of Levenberg-Marquardt.

    Attributes:
        values: the unknowns (n,).
        objective: sum of squares at `values`.
        history: the objective after every iteration.
        stop_reason: why the solver ended.
        is_dense: whether the Jacobian was formed.
        matrix: J^T J plus the prior's precision, as last formed; None if it was not formed.
    """

    values: Tensor
    objective: float
    history: tuple[float, ...]
    stop_reason: str
    is_dense: bool
    matrix: Tensor | None = None

    @property
    def has_converged(self) -> bool:
        """Whether the equations hold up to rounding."""
        return self.stop_reason == CONVERGED


CONVERGED = "the equations hold up to rounding"
STUCK = "no step lowers the residual"
USED_UP = "iterations used up"


Map = Callable[[Tensor], Tensor]


class SystemUnknowns(Protocol):
    """Layout of the unknowns."""

    @property
    def size(self) -> int:
        """Number n of unknowns."""
        ...

    def project(self, values: Tensor, box: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return unknowns (n,) projected to their ranges."""
        ...


class System(Protocol):
    """Equations to be solved; see `Equations` for the members."""

    count: int
    prior_mean: Tensor
    prior_precision: Tensor

    @property
    def unknowns(self) -> SystemUnknowns:
        """Layout of the unknowns."""
        ...

    def objective(self, residual: Tensor, values: Tensor) -> float:
        """Return the sum of squares."""
        ...

    def residual(self, values: Tensor) -> Tensor:
        """Return the residual of each equation, shape (P,)."""
        ...

    def linearise(self, values: Tensor) -> Linearisation:
        """Return the equations at a point."""
        ...

    def jacobian(self, values: Tensor) -> Tensor:
        """Return the transposed Jacobian, shape (n, P)."""
        ...


class Normal(Protocol):
    """Solves damped normal equations at one point."""

    def solve_step(self, damping: float, right: Tensor, accuracy: float) -> Tensor | None:
        """Return the step (n,), or None if the system is singular at this damping."""
        ...


class DenseNormal:
    """Forms J^T J and factors it by Cholesky.

    Attributes:
        matrix: J^T J, and the prior's precision on its diagonal, shape (n, n).
        scale: mean diagonal of J^T J, the unit of damping.
    """

    def __init__(self, equations: System, values: Tensor) -> None:
        """Compute the matrix."""
        self.matrix = square(equations.jacobian(values))
        self.scale = float(self.matrix.diagonal().mean())
        self.matrix.diagonal().add_(equations.prior_precision)
        self._factor: tuple[float, Tensor] | None = None

    def solve_step(self, damping: float, right: Tensor, accuracy: float) -> Tensor | None:
        """Return the step, up to rounding."""
        if self._factor is None or self._factor[0] != damping:
            damped = self.matrix.clone()
            damped.diagonal().add_(damping * self.scale)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if int(failed):
                return None
            self._factor = (damping, factor)
        return torch.cholesky_solve(right[:, None], self._factor[1])[:, 0]


class ProductNormal:
    """Solves by conjugate gradients with products of the Jacobian."""

    def __init__(self, equations: System, linearisation: Linearisation, products: int) -> None:
        """Estimate the mean diagonal of J^T J by random signs."""
        self._linearisation, self._prior, self._products = linearisation, equations.prior_precision, products
        generator = torch.Generator().manual_seed(0)
        size = (_PROBES, equations.unknowns.size)
        signs = torch.randint(2, size, generator=generator).to(self._prior) * 2.0 - 1.0
        sizes = [float(linearisation.forward(sign).square().sum()) for sign in signs]
        self._scale = sum(sizes) / len(sizes) / equations.unknowns.size

    def solve_step(self, damping: float, right: Tensor, accuracy: float) -> Tensor | None:
        """Return the step once the residual is `accuracy` of the right side, or the products are used up."""
        return conjugate_gradients(
            lambda vector: (
                self._linearisation.backward(self._linearisation.forward(vector))
                + (self._prior + damping * self._scale) * vector
            ),
            right,
            lambda vector: vector,
            accuracy,
            self._products,
        )


class NearNormal:
    """Solves by conjugate gradients with the matrix of a nearby point as preconditioner."""

    def __init__(self, equations: System, linearisation: Linearisation, normal: DenseNormal) -> None:
        """Allow as many iterations as need about half the time of forming a new matrix."""
        self._linearisation, self._prior, self._near = linearisation, equations.prior_precision, normal
        self._iterations = max(1, equations.unknowns.size // _QUICK)

    def solve_step(self, damping: float, right: Tensor, accuracy: float) -> Tensor | None:
        """Return the step at a residual below `_LOOSEST`, or after the last iteration; further steps correct it."""
        if self._near.solve_step(damping, right, accuracy) is None:
            return None
        return conjugate_gradients(
            lambda vector: (
                self._linearisation.backward(self._linearisation.forward(vector))
                + (self._prior + damping * self._near.scale) * vector
            ),
            right,
            lambda vector: cast("Tensor", self._near.solve_step(damping, vector, accuracy)),
            _LOOSEST,
            self._iterations,
        )


def conjugate_gradients(multiply: Map, right: Tensor, precondition: Map, accuracy: float, iterations: int) -> Tensor:
    """Return x (n,) with A x = right up to `accuracy` in the norm of the preconditioner, or after some iterations.

    Args:
        multiply: maps v (n,) to A v (n,), for a positive definite A.
        right: right side (n,).
        precondition: maps v (n,) to M^-1 v (n,), with M close to A.
        accuracy: relative residual of convergence.
        iterations: largest number of iterations.
    """
    solution, left = torch.zeros_like(right), right
    direction = nearly = precondition(left)
    size = left @ nearly
    end = float(size) * accuracy**2
    for _ in range(iterations):
        check_deadline()
        image = multiply(direction)
        length = size / (direction @ image)
        solution, left = solution + length * direction, left - length * image
        nearly = precondition(left)
        size, before = left @ nearly, size
        if float(size) <= end:
            break
        direction = nearly + size / before * direction
    return solution


def square(rows: Tensor) -> Tensor:
    """Return A A^T of a matrix (n, P); on a CPU by the routine that computes only one half of it."""
    if rows.device.type != "cpu":
        return rows @ rows.T
    from scipy.linalg import get_blas_funcs  # noqa: PLC0415 - takes long to import

    array = rows.numpy().T
    (multiply,) = get_blas_funcs(("syrk",), (array,))
    half = torch.as_tensor(np.ascontiguousarray(multiply(1.0, array, trans=1, lower=0)))
    return half + half.triu(1).T


def solve(
    equations: System, start: Tensor, limits: SolverLimits, tell: Callable[[int, float, Tensor], None]
) -> Solution:
    """Solve the equations from a start.

    Args:
        equations: equations of an update.
        start: start of the unknowns (n,).
        limits: limits of the solution.
        tell: called with iteration (from 1), objective and unknowns after every iteration.
    """
    is_dense = equations.count * equations.unknowns.size <= limits.dense
    linearisation, values, damping = equations.linearise(start), start, limits.damping
    objective, history, stopped = equations.objective(linearisation.residual, values), [], USED_UP
    normal: Normal | None = None
    for iteration in range(1, limits.iterations + 1):
        normal = (
            DenseNormal(equations, values) if is_dense else ProductNormal(equations, linearisation, limits.products)
        )
        moved = _move(_Path(equations, normal, limits.box), _Place(values, linearisation, objective, damping))
        before = objective
        if moved is not None:
            values, linearisation, objective, damping = moved
        history.append(objective)
        tell(iteration, objective, values)
        if objective > limits.still * before:
            stopped = STUCK
            break
        if objective < limits.convergence_threshold and _is_settled(normal, linearisation, damping):
            break
    if objective < limits.convergence_threshold:
        stopped = CONVERGED
    matrix = normal.matrix if isinstance(normal, DenseNormal) else None
    return Solution(values, objective, tuple(history), stopped, is_dense, matrix)


def _is_settled(normal: Normal, linearisation: Linearisation, damping: float) -> bool:
    """Return whether a further step would hardly change the unknowns; True without a formed matrix."""
    if not isinstance(normal, DenseNormal):
        return True
    step = normal.solve_step(damping, linearisation.backward(linearisation.residual), 0.0)
    return step is None or float(step.abs().max()) < _SETTLED


class _Place(NamedTuple):
    values: Tensor
    linearisation: Linearisation
    objective: float
    damping: float


class _Path(NamedTuple):
    equations: System
    normal: Normal
    box: tuple[Tensor, Tensor] | None

    def step(self, place: _Place) -> _Place | None:
        """Return the end of a step, or None if it does not lower the objective."""
        equations = self.equations
        right = place.linearisation.backward(place.linearisation.residual)
        right = right + equations.prior_precision * (equations.prior_mean - place.values)
        step = self.normal.solve_step(place.damping, right, min(_LOOSEST, place.objective**0.5))
        if step is None:
            return None
        ends = [self._end(place.values + move) for move in (step, *self._bent(place, step))]
        values, objective = min(ends, key=lambda end: end[1])
        if not objective < place.objective:
            return None
        return _Place(values, equations.linearise(values), objective, place.damping)

    def _end(self, values: Tensor) -> tuple[Tensor, float]:
        values = self.equations.unknowns.project(values, self.box)
        return values, self.equations.objective(self.equations.residual(values), values)

    def _bent(self, place: _Place, step: Tensor) -> list[Tensor]:
        """Return the step plus half its acceleration.

        Empty if the matrix is not formed, since it would cost another step.
        """
        if isinstance(self.normal, ProductNormal):
            return []
        neighbours = (self.equations.residual(place.values + sign * _BEND * step) for sign in (1.0, -1.0))
        bending = (
            sum(neighbours) - 2.0 * place.linearisation.residual
        ) / _BEND**2  # of the residual, so its sign is already turned
        acceleration = self.normal.solve_step(place.damping, place.linearisation.backward(bending), 0.0)
        return [] if acceleration is None else [step + 0.5 * acceleration]


def _move(path: _Path, place: _Place) -> _Place | None:
    """Return the end of the first step that lowers the objective, after further steps with the same matrix."""
    for tightened in range(_TRIES):
        moved = path.step(place._replace(damping=place.damping * _TIGHTEN**tightened))
        if moved is not None:
            break
    else:
        return None
    moved = moved._replace(damping=moved.damping * _EASE)
    is_good = isinstance(path.normal, DenseNormal)
    while is_good and (refined := _step_near(path, moved)) is not None:
        is_good, moved = refined.objective < _AGAIN * moved.objective, refined
    return moved


def _step_near(path: _Path, place: _Place) -> _Place | None:
    """Return the end of a fast step with the matrix of an earlier point, or None if it does not lower the objective."""
    if not isinstance(path.normal, DenseNormal):
        return None
    refined = path._replace(normal=NearNormal(path.equations, place.linearisation, path.normal)).step(place)
    return None if refined is None else refined._replace(damping=refined.damping * _EASE)
