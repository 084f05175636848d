"""span-intersection: solve a batch exactly from a dense network without dropout, by the spans of two layers.

A partial result consists of exact examples too: each satisfies hundreds of equations, and mixtures do not. The accepted
residual grows with the noise of the gradient.

Idea: rows of dW_1 span the inputs x of the first layer, rows of dW_2 the inputs of the second. The examples are the
    points that satisfy both: h equations for as many unknowns as examples, with isolated solutions.
Equation: act(W_1 x + b_1) in span(rows of dW_2) for x in span(rows of dW_1), by Levenberg-Marquardt on r(x) = (I - U
    U^T) a / |a|, a = act(W_1 x + b_1), from many starts at once.
Assumes: honest-but-curious server, one exact gradient; labels and batch size need not be known. Without a bias the
    activation must fix scale and sign, as GELU does. Dropout after the second layer has no effect.
Recovers: exact examples, in part or all; of a whole batch also masks and labels, layer by layer.
Fails: dropout between the two layers (use sparse-dictionary); scale-free or odd activations without a bias; layers less
    than twice as wide as the batch; models that mix units between the layers. Noise moves the solutions.
Source: the principle of TIGER, Kalikman et al. 2026, arXiv 2606.18312, applied to dense layers.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.batch_separation._first_layer import FirstLayer, first_layer, part_of_batch, row_space_behind, whole_batch
from attacks.batch_separation._intersection import (
    InputSpan,
    Intersection,
    is_elementwise,
    keeps_factor,
    solve_points,
    span_rows,
)
from attacks.core.gradient_distance import knows_rates
from attacks.core.layers import Behind, examples_from
from attacks.core.mask_readout_rules import linear_behind
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_examples, no_guess
from attacks.core.spans import Spectrum, span_of
from attacks.core.tolerances import EXACT
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_UNITS_PER_EXAMPLE = 2
_ONE_SOLUTION = 1e-2  # relative distance below which two solutions count as the same
_RESIDUAL = 3e-5  # largest residual of a solution when the gradient is exact
_ABOVE_NOISE, _CONTRADICTED = 3.0, 0.2


class SpanIntersectionConfig(Config):
    """Settings of the search."""

    restarts: int = Field(default=128, ge=1, description="random restarts in each round")
    rounds: int = Field(default=12, ge=1, description="most rounds before giving up")


class _Solutions(NamedTuple):
    rows: Tensor  # (k, columns), inputs with the 1 of the bias
    residuals: Tensor  # (k,)
    rounds: int
    converged_starts: int  # starts, over all rounds


@final
@attack(
    "span-intersection",
    summary="exact batches without dropout, from the spans of two layers",
    tier="core",
    related="2606.18312",
)
class SpanIntersection(BatchSeparationAttack[SpanIntersectionConfig]):
    """Finds points of the first layer's row space whose images lie in the second layer's row space."""

    effort: ClassVar[Effort] = "search"
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0},
        "federation": {"batch_size": 2},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, single examples, dropout in between, and activations that leave scale or sign open."""
        if observation.batch_size == 1:
            return "a single example needs no search; closed-form-linear solves it"
        first = first_layer(observation)
        if first is None:
            return "no linear layer sees the flattened input"
        if first.behind is None:
            return f"no linear layer behind '{first.layer.name}' is shared"
        return _unsolvable(observation, first, first.behind) or one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect one round of restarts."""
        return outlook_of(observation, 150.0, 0.9, "all solutions of its equations are isolated")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Run rounds of restarts until every example is found."""
        first = first_layer(observation)
        assert first is not None
        assert first.behind is not None
        rows, read = span_of(first.gradient, EXACT, observation.batch_size)
        size = observation.batch_size or read.rank
        diagnostics = {"numerical rank": float(read.rank), "condition number": read.condition}
        reason = _hopeless(read, len(first.weight))
        if reason is not None:
            return no_guess(observation, reason, iterations=0, diagnostics=diagnostics)
        row_space = row_space_behind(observation, first.behind, read.rank)
        span = span_rows(rows, has_bias=first.has_bias)
        problem = Intersection.from_layer(span, first.weight, first.behind.inputs, row_space)
        solutions = _Solutions(torch.empty(0, len(span.offset)).double(), torch.empty(0).double(), 0, 0)
        while solutions.rounds < self.config.rounds and len(solutions.rows) < read.rank:
            solutions = self._round(span, problem, read, solutions, generator)
            missing = 1.0 - len(solutions.rows) / read.rank
            on_step(Step(0, solutions.rounds, self.config.rounds, missing, missing, no_examples(observation)))
        diagnostics["examples found"] = float(len(solutions.rows))
        diagnostics["share of starts that converged"] = solutions.converged_starts / (
            solutions.rounds * self.config.restarts
        )
        return _answer(observation, first, solutions, read, size, diagnostics)

    def _round(
        self, span: InputSpan, problem: Intersection, read: Spectrum, solutions: _Solutions, generator: torch.Generator
    ) -> _Solutions:
        """Add the distinct solutions of one round of restarts."""
        accepted = max(_RESIDUAL, min(_ABOVE_NOISE * read.noise, _CONTRADICTED))
        points, residuals = solve_points(problem, span.starts(self.config.restarts, generator))
        good = residuals < accepted
        rows = torch.cat([solutions.rows, span.offset + points[good] @ span.directions])
        residuals = torch.cat([solutions.residuals, residuals[good]])
        kept = _distinct(rows, residuals, read.rank)
        return _Solutions(
            rows[kept], residuals[kept], solutions.rounds + 1, solutions.converged_starts + int(good.sum())
        )


def _unsolvable(observation: Observation, first: FirstLayer, next_layer: Behind) -> str | None:
    indices = [index for index, name in linear_behind(observation).items() if name == next_layer.name]
    if indices and knows_rates(observation):
        rate = observation.sites[indices[0]].rate
        return (
            f"dropout at rate {rate:g} lies between '{first.layer.name}' and '{next_layer.name}': use sparse-dictionary"
        )
    if not is_elementwise(next_layer.inputs, len(first.weight)):
        return f"the layers between '{first.layer.name}' and '{next_layer.name}' mix units"
    if first.has_bias:
        return None
    if keeps_factor(next_layer.inputs, len(first.weight), 2.0):
        return f"'{first.layer.name}' has no bias and its activation is scale-free, so every multiple of an input fits"
    if keeps_factor(next_layer.inputs, len(first.weight), -1.0):
        return f"'{first.layer.name}' has no bias and its activation is odd, so every input fits with either sign"
    return None


def _hopeless(read: Spectrum, units: int) -> str | None:
    if units < _UNITS_PER_EXAMPLE * read.rank:
        return f"gave up: {units} units cannot separate {read.rank} examples; twice as many are needed"
    return None


def _distinct(rows: Tensor, residuals: Tensor, limit: int) -> list[int]:
    """Return the index of one solution per group of equal solutions, smallest residuals first."""
    kept: list[int] = []
    for index in residuals.argsort().tolist():
        distances = (rows[kept] - rows[index]).norm(dim=1)
        if len(kept) < limit and not bool((distances < _ONE_SOLUTION * rows[index].norm()).any()):
            kept.append(index)
    return kept


def _answer(
    observation: Observation,
    first: FirstLayer,
    solutions: _Solutions,
    read: Spectrum,
    size: int,
    diagnostics: dict[str, float],
) -> Reconstruction:
    count = len(solutions.rows)
    if not count:
        reason = "gave up: no start converged to a point of both spans"
        return no_guess(observation, reason, iterations=solutions.rounds, diagnostics=diagnostics)
    pixels = solutions.rows[:, :-1] if first.has_bias else solutions.rows
    examples = examples_from(pixels, first.layer, observation)
    notes = (
        f"spans of '{first.layer.name}' and of the linear layer behind it",
        f"largest residual of a solution: {float(solutions.residuals.max()):.1e}",
    )
    if count == read.rank and read.is_exact:
        residual = (float(solutions.residuals.max()), "largest residual of a solution")
        return whole_batch(observation, examples, residual, solutions.rounds, notes, diagnostics)
    stopped = f"found {count} of {read.rank} examples in {solutions.rounds} rounds"
    return part_of_batch(observation, first, examples, size, solutions.rounds, stopped, notes, diagnostics)
