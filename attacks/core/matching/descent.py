"""Gradient descent on dummy inputs, shared by all gradient-matching attacks.

Victims and restarts are rows of one computation; a row that has ended leaves it. An attack adds a `Search`.
Adam is the default optimizer. An optimizer with line searches, such as L-BFGS, minimises the sum of all rows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from attacks.core.matching.comparison import Comparison, Gradients
from attacks.core.matching.optimizers import (
    Constant,
    Cosine,
    Plateau,
    RowAdam,
    Schedule,
    Sign,
    Steps,
    along_rows,
    sign_gradient,
)
from attacks.core.matching.unknowns import (
    LABELS,
    MASKS,
    SearchProgress,
    Unknowns,
    Values,
    flat,
    map_tensors,
    select_row,
    without_masks,
)
from attacks.core.progress import shift_progress
from fedsim.core.foreign import pytorch
from fedsim.core.time_budget import OUT_OF_TIME, DeadlineReached
from fedsim.core.types import Masks, Observation, OnStep, Step

ScheduleName = Literal["plateau", "steps", "cosine", "constant"]
Regulariser = Callable[[Tensor, Masks, Sequence[int]], Tensor]
"""Penalties (R,) of inputs (R, B, *shape) under masks (R, *site.shape), given the victim of each row."""


class DescentSettings(NamedTuple):
    """Optimiser settings and stopping criteria of the rows.

    Attributes:
        iterations: largest number of iterations of one row.
        rate: step size of the inputs, in their units.
        sign: transformation of the inputs' gradient; see `sign_gradient`.
        schedule: schedule of the step size.
        patience: for plateau: iterations without improvement before the step shrinks.
        factor: for plateau: factor of the reduction.
        warm_up: for cosine: iterations until the full step.
        langevin: standard deviation of the noise on the inputs' gradient, in units of the current step.
        threshold: stop below this objective.
        stall: stop after this many iterations without a new best.
        improvement: relative decrease of the objective from which a best counts as new for `stall`.
        still: stop when 100 iterations move the inputs by less than this root mean square; 0 for never.
        optimizer: function from the variables of all rows to an optimizer that evaluates the objective itself, such as
            L-BFGS. It replaces Adam, and the settings from `rate` to `langevin` and `still` have no effect.
    """

    iterations: int
    rate: float
    sign: Sign = "off"
    schedule: ScheduleName = "constant"
    patience: int = 800
    factor: float = 0.1
    warm_up: int = 0
    langevin: float = 0.0
    threshold: float = 0.0
    stall: int = sys.maxsize
    still: float = 0.0
    improvement: float = 0.0
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None


def no_prior(inputs: Tensor, _masks: Masks, _rows: Sequence[int]) -> Tensor:
    """Return zeros, shape (R,)."""
    return inputs.new_zeros(len(inputs))


@dataclass(frozen=True)
class Search:
    """The attack-specific part of a search.

    Attributes:
        unknowns: unknowns besides the inputs, dropout masks included.
        first: draws the dummy inputs (B, *shape) of a victim's next restart from its generator.
        distance: distance (R,) of the gradients of R rows from the observed gradients.
        prior: penalty on the inputs alone.
        reads_entries: whether the distance needs explicit gradients, entry by entry.
    """

    unknowns: Unknowns
    first: Callable[[int, torch.Generator], Tensor]
    distance: Callable[[Gradients], Tensor]
    prior: Regulariser = no_prior
    reads_entries: bool = False


class VictimGroup(NamedTuple):
    """The victims of a joint computation, all of equal model and shape, with an entry each.

    Attributes:
        labels: labels of each victim, shape (B,) or (B, K).
        generators: random sources of each victim's starts and noise.
        on_steps: called in every iteration of a victim, with the row of the lowest objective in that iteration.
    """

    observations: Sequence[Observation]
    labels: Sequence[Tensor]
    generators: Sequence[torch.Generator]
    on_steps: Sequence[OnStep]

    def as_part(self, *, restarts: int = 0, done: int = 0, iterations: int | None = None) -> VictimGroup:
        """Return the same victims, with steps counted as steps of part of a search; see `shift_progress`."""
        shifted = [shift_progress(step, restarts=restarts, done=done, iterations=iterations) for step in self.on_steps]
        return self._replace(on_steps=shifted)


@dataclass(frozen=True)
class Descent:
    """All inputs of `descend`.

    Attributes:
        comparison: computes and compares gradients.
        search: the attack-specific part.
        victims: the attacked victims.
        settings: optimiser settings and stopping criteria.
        box: least and greatest value of the inputs, or None.
        restarts: rows of each victim.
    """

    comparison: Comparison
    search: Search
    victims: VictimGroup
    settings: DescentSettings
    box: tuple[Tensor, Tensor] | None = None
    restarts: int = 1

    def progress(self, rows: _Rows, iteration: int) -> SearchProgress:
        """Return the progress of the search in an iteration, counted from 1."""
        return SearchProgress(rows.victims, self.victims.generators, (iteration - 1) / self.settings.iterations)


@dataclass
class RestartResult:
    """Result of a row.

    Attributes:
        inputs: inputs of the lowest objective, shape (B, *shape).
        masks: masks of the same iteration, one per site that the search optimised.
        extra_values: values of the other blocks of unknowns in that iteration, by name.
        objectives: the lowest objective of every iteration.
        distance: the gradient distance of the lowest objective.
        last_improvement: its iteration and objective; see `DescentSettings.improvement`.
    """

    victim: int
    start: int
    inputs: Tensor
    masks: Masks
    objective: float = math.inf
    iteration: int = 0
    objectives: list[float] = field(default_factory=list[float])
    stop_reason: str = "iterations used up"
    extra_values: Values = field(default_factory=dict[str, Masks])
    distance: float = math.inf
    last_improvement: tuple[int, float] = (0, math.inf)


@dataclass
class _Rows:
    """Active rows. `best` and `values` hold each row's inputs and values at its lowest objective."""

    results: list[RestartResult]
    inputs: Tensor
    variables: Values
    labels: Tensor
    best: Tensor
    values: Values

    @property
    def victims(self) -> list[int]:
        return [row.victim for row in self.results]

    def all(self) -> list[Tensor]:
        return [self.inputs, *flat(self.variables)]

    def keep(self, index: Tensor) -> None:
        self.settle()
        self.results = [self.results[row] for row in index.tolist()]
        self.inputs = self.inputs.detach()[index].requires_grad_()
        self.variables = map_tensors(self.variables, lambda variable: variable.detach()[index].requires_grad_())
        self.labels = self.labels[index]
        self.best, self.values = self.best[index], map_tensors(self.values, lambda value: value[index])

    def settle(self) -> None:
        """Store every row's best inputs and values in its result."""
        for place, row in enumerate(self.results):
            row_values = select_row(self.values, place)
            row.inputs, row.masks, row.extra_values = (
                self.best[place],
                row_values.get(MASKS, ()),
                without_masks(row_values),
            )


_STILL_WINDOW = 100


def descend(descent: Descent) -> list[RestartResult]:
    """Descend from all starts of all victims at once; return a result for each row, victim by victim.

    At a deadline, rows return their state at the lowest objective.
    """
    rows = _first_rows(descent)
    all_results = list(rows.results)
    if descent.settings.optimizer is None:
        _descend_by_adam(descent, rows)
    else:
        _descend_by(descent.settings.optimizer(rows.all()), descent, rows)
    return all_results


def _descend_by(optimizer: torch.optim.Optimizer, descent: Descent, rows: _Rows) -> None:
    """Minimise the sum of all objectives, until all rows have ended."""

    def evaluate(iteration: int) -> float:
        objectives, distances = _objectives(descent, rows, iteration)
        gradients = torch.autograd.grad(objectives.sum(), rows.all(), materialize_grads=True)
        for variable, gradient in zip(rows.all(), gradients, strict=True):
            variable.grad = gradient
        _note(descent, rows, objectives.detach(), distances, iteration)
        return float(objectives.detach().sum())

    for iteration in range(1, descent.settings.iterations + 1):
        optimizer.step(partial(evaluate, iteration))
        if not _report(descent, rows, iteration):
            break
    rows.settle()


def _descend_by_adam(descent: Descent, rows: _Rows) -> None:
    settings = descent.settings
    adam = RowAdam(rows.all())
    schedule = _schedule(settings, rows.inputs)
    earlier = rows.inputs.detach().clone()
    for iteration in range(1, settings.iterations + 1):
        objectives, distances = _objectives(descent, rows, iteration)
        _note(descent, rows, objectives.detach(), distances, iteration)
        going = _report(descent, rows, iteration)
        if not going or iteration == settings.iterations:
            break
        gradients = torch.autograd.grad(objectives.sum(), rows.all(), materialize_grads=True)
        factors = schedule.factors(iteration, objectives.detach())
        rates = [settings.rate * factors, *(step * factors for step in _steps(descent.search, rows))]
        move = sign_gradient(gradients[0], settings.sign)
        if settings.langevin:
            move = move + along_rows(settings.langevin * rates[0], move) * _noise(rows, descent.victims.generators)
        adam.step(rows.all(), [move, *gradients[1:]], rates)
        _project(descent, rows)
        if settings.still and iteration % _STILL_WINDOW == 0:
            going = _still_moving(rows, earlier, going, settings.still)
            earlier = rows.inputs.detach().clone()
        if len(going) < len(rows.results):
            if not going:
                break
            index = torch.tensor(going, device=rows.inputs.device)
            rows.keep(index)
            adam.keep(index)
            schedule.keep(index)
            earlier = earlier[index]
    rows.settle()


def _first_rows(descent: Descent) -> _Rows:
    search, victims, like = descent.search, descent.victims, descent.comparison.like
    results: list[RestartResult] = []
    firsts: list[Values] = []
    for victim, generator in enumerate(victims.generators):
        starts = range(descent.restarts)
        # Inputs are drawn before all other unknowns, so that all attacks on an update start at the same inputs.
        results += [RestartResult(victim, start, search.first(victim, generator), ()) for start in starts]
        firsts += [search.unknowns.first(generator) for _ in starts]
    inputs = torch.stack([row.inputs for row in results]).to(like).requires_grad_()
    variables = {
        name: tuple(
            torch.stack(tensors).to(like).requires_grad_()
            for tensors in zip(*(first[name] for first in firsts), strict=True)
        )
        for name in firsts[0]
    }
    labels = torch.stack([victims.labels[row.victim] for row in results]).to(like.device)
    best = map_tensors(variables, lambda variable: variable.detach().clone())
    return _Rows(results, inputs, variables, labels, inputs.detach().clone(), best)


def _steps(search: Search, rows: _Rows) -> list[float]:
    rates = search.unknowns.rates()
    return [rates[name] for name, tensors in rows.variables.items() for _ in tensors]


def _objectives(descent: Descent, rows: _Rows, iteration: int) -> tuple[Tensor, Tensor]:
    """Return objectives and gradient distances of the rows, (R,) each."""
    search, like = descent.search, descent.comparison.like
    victims, draws = rows.victims, search.unknowns.draws
    values = search.unknowns.forward_values(rows.variables, descent.progress(rows, iteration))
    values = map_tensors(values, lambda value: value.to(like))
    masks, variables = values.get(MASKS, ()), without_masks(values)
    row_labels = values[LABELS][0].softmax(-1) if LABELS in values else rows.labels
    repeated = [1] * (rows.inputs.ndim - 2)
    inputs = rows.inputs.repeat(1, draws, *repeated) if draws > 1 else rows.inputs
    labels = row_labels.repeat(1, draws, *([1] * (row_labels.ndim - 2))) if draws > 1 else row_labels
    distance = search.distance(descent.comparison.gradients(inputs, masks, labels, victims, variables))
    return distance + search.prior(rows.inputs, masks, victims) + search.unknowns.prior(values), distance.detach()


@torch.no_grad()
def _note(descent: Descent, rows: _Rows, objectives: Tensor, distances: Tensor, iteration: int) -> None:
    """Record the objectives of an evaluation, and store each improved row's inputs and values."""
    values, lengths = objectives.tolist(), distances.tolist()
    better = [
        index for index, (row, value) in enumerate(zip(rows.results, values, strict=True)) if value < row.objective
    ]
    for row, value in zip(rows.results, values, strict=True):
        row.objectives[iteration - 1 :] = [min([*row.objectives[iteration - 1 :], value])]
    for index in better:
        row = rows.results[index]
        row.objective, row.distance, row.iteration = values[index], lengths[index], iteration
    if not better:
        return
    values = descent.search.unknowns.reported_values(rows.variables, descent.progress(rows, iteration))
    best, values_now = [rows.best, *flat(rows.values)], [rows.inputs, *flat(values)]
    if len(better) == len(rows.results):
        pytorch.foreach_copy_(best, values_now)
        return
    index = torch.tensor(better, device=rows.inputs.device)
    for kept, present in zip(best, values_now, strict=True):
        kept[index] = present[index]


def _report(descent: Descent, rows: _Rows, iteration: int) -> list[int]:
    """Report the iteration, and return the indices of the rows that go on; none at a deadline."""
    leading: dict[int, int] = {}
    best: dict[int, float] = {}
    for index, row in enumerate(rows.results):
        if row.victim not in leading or row.objectives[-1] < rows.results[leading[row.victim]].objectives[-1]:
            leading[row.victim] = index
        best[row.victim] = min(row.objective, best.get(row.victim, math.inf))
    guesses = rows.inputs.detach()
    for victim, index in leading.items():
        row = rows.results[index]
        step = Step(row.start, iteration, descent.settings.iterations, row.objectives[-1], best[victim], guesses[index])
        try:
            descent.victims.on_steps[victim](step)
        except DeadlineReached:
            for ended in rows.results:
                ended.stop_reason = OUT_OF_TIME
            return []
    return [index for index, row in enumerate(rows.results) if not _has_ended(row, iteration, descent.settings)]


def _has_ended(row: RestartResult, iteration: int, settings: DescentSettings) -> bool:
    value = row.objectives[-1]
    if value < row.last_improvement[1] * (1.0 - settings.improvement):
        row.last_improvement = iteration, value
    if math.isnan(value):
        row.stop_reason = "objective is not a number"
    elif value < settings.threshold:
        row.stop_reason = "objective below threshold"
    elif iteration - row.last_improvement[0] >= settings.stall:
        row.stop_reason = "no improvement"
    else:
        return False
    return True


def _still_moving(rows: _Rows, earlier: Tensor, going: list[int], threshold: float) -> list[int]:
    moved = (rows.inputs.detach() - earlier).flatten(1).square().mean(1).sqrt()
    for index in going:
        if float(moved[index]) < threshold:
            rows.results[index].stop_reason = "inputs stand still"
    return [index for index in going if float(moved[index]) >= threshold]


@torch.no_grad()
def _project(descent: Descent, rows: _Rows) -> None:
    if descent.box is not None:
        rows.inputs.clamp_(*(bound.to(rows.inputs) for bound in descent.box))
    descent.search.unknowns.project(rows.variables)


def _noise(rows: _Rows, generators: Sequence[torch.Generator]) -> Tensor:
    shape = rows.inputs.shape[1:]
    return torch.stack([torch.randn(shape, generator=generators[victim]) for victim in rows.victims]).to(rows.inputs)


def _schedule(settings: DescentSettings, inputs: Tensor) -> Schedule:
    if settings.schedule == "plateau":
        return Plateau(len(inputs), settings.patience, settings.factor, inputs.detach())
    if settings.schedule == "steps":
        return Steps(settings.iterations)
    if settings.schedule == "cosine":
        return Cosine(settings.iterations, settings.warm_up)
    return Constant()
