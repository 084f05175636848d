"""one-hot-rows: recover the rows of a table exactly, by its 0/1 columns, with dropout or without.

Idea: the rows of a batch lie in the row space of G. After removal of the public scale, a category is 0 or 1 in every
    row: try all values of as many independent columns as G has dimensions, and keep the rows that satisfy all other
    columns.
Equation: x = q V, V the right singular vectors of G; q = t M^-1 for values t of R pivot columns M of V, including the
    bias. Among the candidates, the rows are the terms of G: without dropout G = sum_ik c_ik J_k(x_i) x_i^T has a unique
    solution c, J_k the derivative of output k; with dropout the D of G = D X has most zeros.
Assumes: honest-but-curious server, a single gradient, public means and standard deviations of the columns; labels,
    rates and batch size need not be known. Any activation, any width of at least the batch.
Recovers: exact rows, then labels, and masks if the rates are known, layer by layer.
Fails: more rows than the 0/1 columns distinguish (it reports how many are missing); no categories; noise.
Source: no paper is known to the authors; TabLeak, arXiv 2210.01785, reads tables from gradients by relaxed search.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from attacks.batch_separation._first_layer import FirstLayer, batch_refusal, first_layer, part_of_batch, whole_batch
from attacks.batch_separation._one_hot_columns import Pivots, TableColumns, pivots_of, round_rows, rows_in
from attacks.batch_separation._rows_of_gradient import (
    candidates_by_derivatives,
    candidates_by_zeros,
    is_in_column_space,
)
from attacks.core.layers import examples_from
from attacks.core.outlooks import outlook_of
from attacks.core.results import no_examples, no_guess
from attacks.core.spans import share_outside, span_of
from attacks.core.tolerances import EXACT
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.nets.table_columns import categories_of
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step


class OneHotRowsConfig(Config):
    """Settings of the enumeration. A million combinations need about two seconds on one core."""

    combinations: int = Field(default=3_000_000, ge=1, description="most combinations of values; it gives up at more")
    candidates: int = Field(default=1000, ge=1, description="most candidates among which rows are chosen")
    restarts: int = Field(default=60, ge=1, description="choices of candidates from which zeros are searched")
    steps: dict[int, PositiveInt] = Field(
        default={},
        description="numbers of a public scale: column, from 0, and steps from its least value to its largest; an "
        "answer from 1 to 5 has 4",
    )


class _Scale(NamedTuple):
    """Public statistics of the entries of the first layer's input, shape (columns,)."""

    mean: Tensor
    std: Tensor


@final
@attack("one-hot-rows", summary="exact rows of a table, by its columns of 0 and 1", tier="core", related="2210.01785")
class OneHotRows(BatchSeparationAttack[OneHotRowsConfig]):
    """Tries all values of independent 0/1 columns, and keeps the rows that explain the gradient."""

    effort: ClassVar[Effort] = "search"
    example: ClassVar[Tables] = {
        "data": {"name": "affairs-survey"},
        "task": "tabular",
        "model": {"name": "mlp", "width": 32, "depth": 1, "dropout": 0.0, "bias": True},
        "federation": {"batch_size": 2},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse inputs other than tables with public statistics and categories, and first layers without a bias."""
        shape, spec = observation.spec.shape, observation.spec
        if len(shape) != 1 or spec.vocabulary is not None:
            return f"it reads rows of a table, and an example has shape {tuple(shape)}"
        reason = batch_refusal(observation)
        if reason is not None:
            return reason
        first = first_layer(observation)
        if first is not None and not first.has_bias:
            return f"layer '{first.layer.name}' has no bias; its column holds the 1 of every row"
        if len(spec.mean) != shape[0]:
            return "the means and standard deviations of the columns are not public"
        categories = categories_of(spec.mean, spec.std)
        if not categories:
            return "no column is 0 or 1 in every row, as its public mean and standard deviation show"
        flags = {column for category in categories for column in category}
        return self._no_such_number([column for column in range(shape[0]) if column not in flags])

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect an enumeration of a fraction of a second."""
        return outlook_of(observation, 50.0, 0.5, "columns of 0 and 1 distinguish the rows")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Try all combinations, then choose the rows."""
        first = first_layer(observation)
        assert first is not None
        basis, read = span_of(first.gradient, EXACT, observation.batch_size)
        diagnostics = {"numerical rank": float(read.rank), "condition number": read.condition}
        if not read.is_exact:
            return no_guess(observation, "gave up: noise hides which rows span the gradient", diagnostics=diagnostics)
        scale, table = _scale(observation, first), self._table(observation, first)
        span = _plain(basis, scale)
        pivots = pivots_of(span, table)
        diagnostics |= {
            "dimensions fixed": float(pivots.determined_dimensions),
            "combinations": float(pivots.combinations),
        }
        reason = self._hopeless(pivots, read.rank)
        if reason is not None:
            return no_guess(observation, reason, diagnostics=diagnostics)
        vectors = rows_in(span, table, pivots)
        diagnostics["candidates"] = float(len(vectors))
        on_step(Step(0, 1, 1, 1.0, 1.0, no_examples(observation)))
        rows = torch.column_stack([round_rows((vectors @ span)[:, :-1], table), torch.ones(len(vectors)).double()])
        return self._choose_rows(observation, first, rows, basis, diagnostics, generator)

    def _choose_rows(
        self,
        observation: Observation,
        first: FirstLayer,
        rows: Tensor,
        basis: Tensor,
        diagnostics: dict[str, float],
        generator: torch.Generator,
    ) -> Reconstruction:
        """Choose the rows of the batch among candidates (k, columns + 1) in units of the table."""
        count, rank, scale = len(rows), len(basis), _scale(observation, first)
        inputs = (rows[:, :-1] - scale.mean) / scale.std
        examples = examples_from(inputs, first.layer, observation)
        if count > rank and not observation.sites:
            fits = is_in_column_space(observation, first.layer.name, examples, first.gradient @ basis.T)
            rows, inputs, examples = rows[fits], inputs[fits], examples[fits]
            diagnostics["candidates in the column space"] = float(len(examples))
            if 0 < len(examples) < rank:
                return _solve_rows(observation, first, examples, rank, count, diagnostics)
        if not rank <= len(examples) <= max(self.config.candidates, rank):
            return no_guess(
                observation, f"gave up: {len(examples)} candidates for {rank} rows", diagnostics=diagnostics
            )
        known = torch.column_stack([inputs, rows[:, -1]]) @ basis.T
        for chosen in self._choices(observation, first, examples, known, basis, generator):
            guess = _answer(observation, first, examples[chosen], inputs[chosen], count, diagnostics)
            if guess.is_exact or len(examples) == rank:
                return guess
        reason = f"gave up: no {rank} of {len(examples)} candidates explain the gradient"
        return no_guess(observation, reason, diagnostics=diagnostics)

    def _no_such_number(self, numbers: Collection[int]) -> str | None:
        wrong = [column for column in self.config.steps if column not in numbers]
        return f"'steps' names column {wrong[0]}, and the numbers are columns {list(numbers)}" if wrong else None

    def _table(self, observation: Observation, first: FirstLayer) -> TableColumns:
        """Return categories and numbers by their positions in the first layer's input."""
        place = first.layer.pixels[0].argsort().tolist()
        categories = categories_of(observation.spec.mean, observation.spec.std)
        return TableColumns(
            tuple(tuple(place[column] for column in category) for category in categories),
            {place[column]: steps for column, steps in self.config.steps.items()},
        )

    def _hopeless(self, pivots: Pivots, rank: int) -> str | None:
        if pivots.determined_dimensions < rank:
            return (
                f"gave up: {rank} rows are in the gradient, and columns with few values separate "
                f"{pivots.determined_dimensions}: {rank - pivots.determined_dimensions} missing"
            )
        if pivots.combinations > self.config.combinations:
            return (
                f"gave up: {pivots.combinations:.1e} combinations of values, 'combinations' allows "
                f"{self.config.combinations}"
            )
        return None

    def _choices(
        self,
        observation: Observation,
        first: FirstLayer,
        examples: Tensor,
        known: Tensor,
        basis: Tensor,
        generator: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield indices of rows that may form the gradient, shape (R,), the likelier the later."""
        if len(examples) == len(basis):
            return iter([torch.arange(len(examples))])
        parts = first.gradient @ basis.T
        if observation.sites:
            return candidates_by_zeros(parts, known, self.config.restarts, generator)
        return candidates_by_derivatives(observation, first.layer.name, examples, parts, known)


def _scale(observation: Observation, first: FirstLayer) -> _Scale:
    order = first.layer.pixels[0]
    mean, std = (torch.tensor(part, dtype=torch.float64) for part in (observation.spec.mean, observation.spec.std))
    return _Scale(mean[order], std[order])


def _plain(rows: Tensor, scale: _Scale) -> Tensor:
    """Return rows (R, columns + 1), the bias last, in units in which the extremes of a column are 0 and 1."""
    bias = rows[:, -1:]
    return torch.cat([rows[:, :-1] * scale.std + bias * scale.mean, bias], 1)


def _solve_rows(
    observation: Observation,
    first: FirstLayer,
    examples: Tensor,
    rank: int,
    candidates: int,
    diagnostics: dict[str, float],
) -> Reconstruction:
    """Return the recovered rows; the other rows of the batch depend on each other."""
    stopped = f"read {len(examples)} rows of {candidates} candidates; others of the {rank} or more depend on each other"
    size = max(observation.batch_size or rank, len(examples))
    return part_of_batch(observation, first, examples, size, 1, stopped, (), diagnostics)


def _answer(
    observation: Observation,
    first: FirstLayer,
    examples: Tensor,
    inputs: Tensor,
    candidates: int,
    diagnostics: dict[str, float],
) -> Reconstruction:
    unexplained = share_outside(first.gradient, torch.column_stack([inputs, torch.ones(len(inputs)).double()]))
    residual = (unexplained, "share of the first gradient outside the rows")
    notes = (f"{len(examples)} rows of {candidates} that obey the 0/1 columns",)
    return whole_batch(observation, examples, residual, 1, notes, diagnostics)
