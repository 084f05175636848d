"""Adam and step-size schedules for many rows at once, each row with its own step size.

Own implementation, because the first optimizer of `torch.optim` takes seconds to make, longer than many attacks run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from attacks.core.tolerances import TINY
from fedsim.core.foreign import pytorch

BETAS = (0.9, 0.999)
EPSILON = 1e-8
RELATIVE_IMPROVEMENT = 1e-4  # smaller relative decreases do not count; the default of torch's plateau schedule

Sign = Literal["hard", "soft", "off"]


class RowAdam:
    """Adam (arXiv 1412.6980) on variables whose first dimension is the row."""

    def __init__(self, variables: Sequence[Tensor]) -> None:
        """Start with zero moments."""
        self._first = [torch.zeros_like(variable) for variable in variables]
        self._second = [torch.zeros_like(variable) for variable in variables]
        self._steps = 0

    @torch.no_grad()
    def step(self, variables: Sequence[Tensor], gradients: Sequence[Tensor], rates: Sequence[Tensor]) -> None:
        """Change the variables in place.

        Args:
            variables: the same as in the previous step, or their rows after `keep`.
            gradients: gradients of the variables.
            rates: step sizes (R,) of each variable.
        """
        self._steps += 1
        table = torch.stack(list(rates), 1)  # (R, variables)
        if bool((table == table[:1]).all()):
            self._step_alike(list(variables), list(gradients), table[0].tolist())
        else:
            self._step_apart(list(variables), list(gradients), rates)

    def _step_alike(self, variables: list[Tensor], gradients: list[Tensor], rates: list[float]) -> None:
        """Step if all rows have the same rates: torch's own kernel passes over memory once."""
        for rate in set(rates):
            chosen = [index for index, each_rate in enumerate(rates) if each_rate == rate]
            pytorch.fused_adam_(
                [variables[index] for index in chosen],
                [gradients[index].contiguous() for index in chosen],
                [self._first[index] for index in chosen],
                [self._second[index] for index in chosen],
                [],
                [torch.tensor(float(self._steps), device=variables[index].device) for index in chosen],
                lr=rate,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def _step_apart(self, variables: list[Tensor], gradients: list[Tensor], rates: Sequence[Tensor]) -> None:
        first, second = 1.0 - BETAS[0] ** self._steps, math.sqrt(1.0 - BETAS[1] ** self._steps)
        pytorch.foreach_lerp_(self._first, gradients, 1.0 - BETAS[0])
        pytorch.foreach_mul_(self._second, BETAS[1])
        pytorch.foreach_addcmul_(self._second, gradients, gradients, 1.0 - BETAS[1])
        sizes = pytorch.foreach_sqrt(self._second)
        pytorch.foreach_div_(sizes, second)
        pytorch.foreach_add_(sizes, EPSILON)
        moves = pytorch.foreach_div(self._first, sizes)
        pytorch.foreach_mul_(moves, [along_rows(rate / first, move) for rate, move in zip(rates, moves, strict=True)])
        pytorch.foreach_sub_(variables, moves)

    def keep(self, rows: Tensor) -> None:
        """Remove all rows but these."""
        self._first = [moment[rows] for moment in self._first]
        self._second = [moment[rows] for moment in self._second]


def sign_gradient(gradient: Tensor, sign: Sign) -> Tensor:
    """Return the gradient (R, ...) of the inputs in the form in which Adam receives it.

    hard: its sign. soft: tanh of the gradient over its row's root mean square. off: the gradient itself.
    """
    if sign == "hard":
        return gradient.sign()
    if sign == "off":
        return gradient
    size = gradient.flatten(1).square().mean(1).sqrt().clamp_min(TINY)
    return torch.tanh(gradient / along_rows(size, gradient))


def along_rows(figures: Tensor, like: Tensor) -> Tensor:
    """Return values (R,) with trailing dimensions of 1, so that they broadcast over tensors like `like`."""
    return figures.view(-1, *(1 for _ in like.shape[1:]))


class Schedule(Protocol):
    """Factors of the step size."""

    def factors(self, iteration: int, objectives: Tensor) -> Tensor:
        """Return each row's factor for the step after this iteration (from 1), given the objectives (R,) before it."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Remove all rows but these."""


class Plateau:
    """Shrinks a row's step after a number of iterations without improvement of its objective."""

    def __init__(self, rows: int, patience: int, factor: float, like: Tensor) -> None:
        """Start with full steps."""
        self._patience = patience
        self._factor = factor
        self._best = torch.full((rows,), torch.inf).to(like)
        self._waiting = torch.zeros(rows, dtype=torch.long, device=like.device)
        self._factors = torch.ones(rows).to(like)

    def factors(self, iteration: int, objectives: Tensor) -> Tensor:
        """Return each row's factor, and count the iterations since its last improvement by more than 0.01 %."""
        factors = self._factors.clone()
        better = objectives < self._best * (1.0 - RELATIVE_IMPROVEMENT)
        self._best = torch.where(better, objectives, self._best)
        self._waiting = torch.where(better, 0, self._waiting + 1)
        exhausted = self._waiting > self._patience
        self._factors = torch.where(exhausted, self._factors * self._factor, self._factors)
        self._waiting = torch.where(exhausted, 0, self._waiting)
        return factors

    def keep(self, rows: Tensor) -> None:
        """Remove all rows but these."""
        self._best, self._waiting, self._factors = self._best[rows], self._waiting[rows], self._factors[rows]


class Steps:
    """Shrinks all steps tenfold after 3/8, 5/8 and 7/8 of the iterations (arXiv 2003.14053)."""

    def __init__(self, iterations: int) -> None:
        """Store the number of iterations."""
        self._iterations = iterations

    def factors(self, iteration: int, objectives: Tensor) -> Tensor:
        """Return the factor of this iteration; objectives have no effect."""
        passed = sum(iteration > self._iterations * eighths / 8 for eighths in (3, 5, 7))
        return torch.full_like(objectives, 0.1**passed)

    def keep(self, rows: Tensor) -> None:
        """Do nothing: all rows share the schedule."""


class Cosine:
    """Half a cosine from full steps to zero, after a linear warm-up."""

    def __init__(self, iterations: int, warm_up: int = 0) -> None:
        """Store the numbers of all iterations and of warm-up iterations."""
        self._iterations = iterations
        self._warm_up = warm_up

    def factors(self, iteration: int, objectives: Tensor) -> Tensor:
        """Return the factor of this iteration; objectives have no effect."""
        if iteration < self._warm_up:
            return torch.full_like(objectives, iteration / self._warm_up)
        done = (iteration - self._warm_up) / max(1, self._iterations - self._warm_up)
        return torch.full_like(objectives, 0.5 * (1.0 + math.cos(math.pi * done)))

    def keep(self, rows: Tensor) -> None:
        """Do nothing: all rows share the schedule."""


class Constant:
    """Full steps in every iteration."""

    def factors(self, iteration: int, objectives: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(objectives)

    def keep(self, rows: Tensor) -> None:
        """Do nothing: all rows share the schedule."""
