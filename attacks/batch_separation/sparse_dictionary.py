"""sparse-dictionary: separate a batch exactly, by zeros that dropout or ReLU leave in a first linear layer.

Idea: the columns of D have an exact zero for every dropped or inactive unit, so the sparsest basis of G's column space
    is D, found by dictionary learning. Dropout supplies zeros: it makes batches separable instead of hiding them.
Equation: G = D X, with D (units, B) the output gradients and X (B, pixels) the inputs; D from the basis, then X.
Assumes: honest-but-curious server, one gradient; labels and batch size need not be known. Scale and sign come from the
    bias, or without a bias from the next layer. If only some columns are found, the next layer completes them.
Recovers: exact images, and for a whole batch the masks of all layers and the labels; masks need known dropout rates.
Fails: no zeros (GELU without dropout: use span-intersection), too few for the batch, strong noise. Weaker noise blurs
    the images. With ReLU a sparse mixture may pass for an example: the objective shows it.
Source: inspired by SPEAR++, Bakarsky et al. 2025, arXiv 2510.24200, of which the abstract was read; SPEAR: arXiv
    2403.03945; completion: after TIGER, arXiv 2606.18312.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.batch_separation._factors import Factors, factorise, too_few_units
from attacks.batch_separation._first_layer import (
    FirstLayer,
    batch_refusal,
    first_layer,
    part_of_batch,
    row_space_behind,
    scale,
    whole_batch,
)
from attacks.batch_separation._intersection import Intersection, is_elementwise, solve_points, span_rows
from attacks.batch_separation._sparsest import Sparse, entries, nothing_found, search_vectors, sparsest_directions
from attacks.core.defense_facts import inexact
from attacks.core.layers import examples_from
from attacks.core.noise_level import rounding_levels
from attacks.core.outlooks import outlook_of
from attacks.core.results import no_examples, no_guess
from attacks.core.spans import Spectrum, even_rows, even_spectrum, frame_of, spectrum
from attacks.core.tolerances import EXACT, LEAST, SURELY_KEPT
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_COMPLETIONS = (2, 16)  # restarts per example; more if the first restarts fail
_COMPLETED = 3e-5
_LEFT_OPEN = (0, 1, 3)
_ABOVE_EDGE = 3.0  # relative to the largest singular value of independent rounding errors
_LIMITS = torch.tensor([0.0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1], dtype=torch.float64)
_CLEARLY = 10.0  # relative to the largest possible rounding
_CONTRADICTED = 0.1
_COMPARED_IN_NOISE = 0.25


class SparseDictionaryConfig(Config):
    """Settings of the search. A round of 1,024 restarts needs about half a second on one core for 512 units."""

    rounds: int = Field(default=4, ge=1, description="most rounds before giving up")
    restarts: int = Field(default=1024, ge=1, description="random restarts in each round")
    max_outside_share: float = Field(
        default=1e-3, gt=0, le=1, description="share of an example's image that may be outside the next layer's inputs"
    )


class _Atoms(NamedTuple):
    deltas: Tensor  # (k, h), columns of D with exact zeros
    rows: Tensor  # (k, columns), rows of X, so that D X is the gradient
    active_units: Tensor  # (k, h), 1 for units that surely pass a gradient


@final
@attack(
    "sparse-dictionary",
    summary="exact batches from zeros of dropout or ReLU, by a dictionary",
    tier="core",
    paper="2510.24200",
    fidelity="inspired",
    deviates="only the abstract was read; the dictionary search is this project's",
)
class SparseDictionary(BatchSeparationAttack[SparseDictionaryConfig]):
    """Finds the sparsest basis of the column space of the first weight gradient."""

    effort: ClassVar[Effort] = "search"
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.5},
        "federation": {"batch_size": 2},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, single examples, and models without a first linear layer of determinable scale."""
        return batch_refusal(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect one round of restarts."""
        return outlook_of(observation, 300.0, 0.8, "zeros of dropout or ReLU separate the examples")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search in rounds until the basis is complete, then solve for the examples."""
        first = first_layer(observation)
        assert first is not None
        read = self._read(observation, first)
        first = _drop_narrow_layer(observation, first, read.rank)
        size = observation.batch_size or read.rank
        reason = too_few_units(read.rank, int(first.gradient.any(1).sum()))
        diagnostics = {"numerical rank": float(read.rank), "condition number": read.condition, "noise": read.noise}
        if reason is not None:
            return no_guess(observation, reason, iterations=0, diagnostics=diagnostics)
        watch = _Watch(on_step, no_examples(observation), read.rank, self.config.rounds * read.rank)
        if not read.is_exact:
            return self._despite_noise(observation, first, read, size, generator, watch, diagnostics)
        atoms = self._separate(observation, first, read.rank, generator, watch)
        return _answer(observation, first, atoms, read.rank, size, watch.rounds, diagnostics)

    def _read(self, observation: Observation, first: FirstLayer) -> Spectrum:
        """Return the spectrum of rows of equal norm; of the gradient itself if its noise is not its own rounding."""
        limit, tolerance = observation.batch_size, EXACT
        plain = torch.linalg.svdvals(first.gradient)
        if observation.update.kind == "delta":
            return spectrum(plain, max(tolerance, _share_of_rounding(observation, first, plain)), limit)
        even_singular = even_spectrum(torch.linalg.svdvals(even_rows(first.gradient)), tolerance, limit)
        return even_singular if even_singular.is_exact else spectrum(plain, tolerance, limit)

    def _separate(
        self, observation: Observation, first: FirstLayer, rank: int, generator: torch.Generator, watch: _Watch
    ) -> _Atoms:
        """Find all atoms; if some are missing, subtract the atoms found so far, and search the rest."""
        groups: list[_Atoms] = []
        sizes = torch.ones(len(first.gradient)).double() if observation.update.kind == "delta" else None
        residual = first.gradient
        missing = rank
        while missing:
            factors = factorise(first.gradient, residual, lambda _singular, rank=missing: rank, sizes)
            if len(factors.basis) <= missing:
                break
            vectors = self._rounds(factors, generator, watch).vectors if missing > 1 else torch.ones(1, 1).double()
            part = _solve(observation, first, factors, vectors, self.config.max_outside_share, generator)
            if part is None:
                break
            groups.append(part)
            residual = residual - part.deltas.T @ part.rows
            missing -= len(part.rows)
        if not groups:
            return _Atoms(*(torch.empty(0, size) for size in (len(residual), residual.shape[1], len(residual))))
        return _Atoms(*(torch.cat(parts) for parts in zip(*groups, strict=True)))

    def _rounds(self, factors: Factors, generator: torch.Generator, watch: _Watch) -> Sparse:
        """Run rounds of restarts until the basis is complete or a round on all columns adds nothing."""
        rank = len(factors.right)
        sparse = nothing_found(rank)
        columns = _columns(factors)
        for _ in range(self.config.rounds):
            before = len(sparse.vectors)
            for leading in columns:
                sparse = search_vectors(factors.space, sparse, self.config.restarts, generator, leading)
                watch.report_round(rank - len(sparse.vectors))
                if len(sparse.vectors) == rank and sparse.are_alike:
                    return sparse
            if 0 < len(sparse.vectors) == before:
                break
        return sparse

    def _despite_noise(
        self,
        observation: Observation,
        first: FirstLayer,
        read: Spectrum,
        size: int,
        generator: torch.Generator,
        watch: _Watch,
        diagnostics: dict[str, float],
    ) -> Reconstruction:
        """Use the sparsest directions without exact zeros; keep examples that the next layer does not contradict."""
        even_rows_mask = torch.ones(len(first.gradient), dtype=torch.float64)
        factors = factorise(first.gradient, first.gradient, lambda _singular: read.rank, even_rows_mask)
        vectors = sparsest_directions(factors.basis, read.noise, self.config.restarts, generator)
        if first.behind is None:
            return no_guess(
                observation, "gave up: noise, and no layer behind to confirm the examples", diagnostics=diagnostics
            )
        if len(vectors) < read.rank:
            return no_guess(observation, "gave up: noise hides the examples", diagnostics=diagnostics)
        rows = torch.linalg.lstsq(vectors.T, factors.right).solution
        deltas = (vectors @ factors.basis.T).abs()
        count = max(2, round(_COMPARED_IN_NOISE * deltas.shape[1]))
        kept = torch.zeros(len(deltas), len(factors.live), dtype=torch.float64)
        kept[:, factors.live] = torch.zeros_like(deltas).scatter(1, deltas.topk(count).indices, 1.0)
        row_space = row_space_behind(observation, first.behind, read.rank)
        inputs, residuals = scale(observation, first, rows, kept, row_space)
        trusted = residuals < _CONTRADICTED
        watch.report_round(int((~trusted).sum()))
        diagnostics = {**diagnostics, "examples found": float(trusted.sum())}
        if not bool(trusted.any()):
            return no_guess(observation, "gave up: the next layer contradicts every example", diagnostics=diagnostics)
        return part_of_batch(
            observation,
            first,
            examples_from(inputs[trusted], first.layer, observation),
            size,
            1,
            f"separated {int(trusted.sum())} of {read.rank} examples up to noise",
            ("the gradient has no clean rank: noise, quantisation or pruning",),
            diagnostics,
        )


@dataclass
class _Watch:
    """Counts the rounds and reports them."""

    on_step: OnStep
    guess: Tensor
    rank: int
    max_rounds: int
    rounds: int = 0

    def report_round(self, missing: int) -> None:
        self.rounds += 1
        share = missing / self.rank
        self.on_step(Step(0, self.rounds, self.max_rounds, share, share, self.guess))


def _drop_narrow_layer(observation: Observation, first: FirstLayer, rank: int) -> FirstLayer:
    """Return the first layer, without the next layer if that has too few outputs to hold `rank` examples.

    The gradient of K outputs spans at most K combinations of its inputs, and K - 1 for classes, whose residuals sum to
    0: an example outside their span is not contradicted. Without a bias even these are needed for the scale.
    """
    if first.behind is None or not first.has_bias:
        return first
    outputs = len(observation.update.tensors[f"{first.behind.name}.weight"])
    return replace(first, behind=None) if outputs <= rank else first


def _share_of_rounding(observation: Observation, first: FirstLayer, singular: Tensor) -> float:
    """Return a bound on singular values from rounding of the weights, relative to the largest singular value."""
    name = f"{first.layer.name}.weight"
    (level,) = rounding_levels(observation, {name: observation.update.tensors[name]})
    edge = sum(size**0.5 for size in first.gradient.shape)
    return _ABOVE_EDGE * level * edge / max(float(singular[0]), LEAST)


def _columns(factors: Factors) -> list[int]:
    """Return the numbers of leading columns to search: all, then only singular values above growing limits."""
    singular = factors.right.norm(dim=1)
    counts = (singular > singular[0] * _LIMITS.to(singular)[:, None]).sum(1)
    return [count for count in dict.fromkeys(counts.tolist()) if count > 1]


def _atoms(factors: Factors, vectors: Tensor, rows: Tensor) -> _Atoms:
    """Return the atoms of vectors (k, R) with rows of X; entries of D that may be rounding are zero."""
    values, limits = entries(factors.basis, vectors).abs(), factors.space.tolerances(vectors)
    deltas = (vectors @ factors.basis.T) * factors.sizes * (values > limits)
    usual = torch.where(deltas == 0, torch.nan, deltas.abs()).nanmedian(1, keepdim=True).values
    kept = (values > _CLEARLY * limits) & (deltas.abs() > SURELY_KEPT * usual)
    whole = torch.zeros(2, len(vectors), len(factors.live), dtype=torch.float64)
    whole[:, :, factors.live] = torch.stack([deltas, kept.double()])
    return _Atoms(whole[0], rows, whole[1])


def _solve(
    observation: Observation,
    first: FirstLayer,
    factors: Factors,
    vectors: Tensor,
    residual: float,
    generator: torch.Generator,
) -> _Atoms | None:
    """Return the atoms of a basis that the next layer confirms, or None.

    A single wrong vector of a complete basis makes the rows of all others wrong, so the last vectors are then left
    open.
    """
    missing = len(factors.right)
    if len(vectors) == missing:
        atoms = _atoms(factors, vectors, torch.linalg.solve(vectors.T, factors.right))
        confirmed = _residuals(observation, first, atoms) < residual
        if bool(confirmed.any()):
            return _Atoms(*(part[confirmed] for part in atoms))
        vectors = vectors[:-1]
    for count in _LEFT_OPEN:
        part = _complete(observation, first, factors, vectors[: max(0, len(vectors) - count)], generator)
        if part is not None:
            return part
    return None


def _residuals(observation: Observation, first: FirstLayer, atoms: _Atoms) -> Tensor:
    """Return the distance of the next layer's inputs from its row space, in [0, 1], (k,); 0 without such a layer."""
    next_layer = first.behind
    if next_layer is None or not is_elementwise(next_layer.inputs, len(first.weight)):
        return torch.zeros(len(atoms.rows))
    row_space = row_space_behind(observation, next_layer, _max_examples(observation, len(atoms.rows)))
    tells = atoms.active_units.sum(1) > len(row_space)
    return torch.where(tells, scale(observation, first, atoms.rows, atoms.active_units, row_space)[1], 1.0)


def _max_examples(observation: Observation, rank: int) -> int:
    return observation.batch_size or rank


def _complete(
    observation: Observation, first: FirstLayer, factors: Factors, vectors: Tensor, generator: torch.Generator
) -> _Atoms | None:
    """Find the open rows of X of an incomplete basis, example by example; None if no example is completed."""
    next_layer, width = first.behind, len(first.weight)
    if next_layer is None or not len(vectors) or not is_elementwise(next_layer.inputs, width):
        return None
    row_space = row_space_behind(observation, next_layer, _max_examples(observation, len(factors.right)))
    dual = torch.linalg.pinv(vectors).T @ factors.right  # row i belongs to example i, up to the open rows
    open_rows = torch.linalg.svd(vectors).Vh[len(vectors) :] @ factors.right
    blank = _atoms(factors, vectors, dual)
    completed: list[int] = []
    for index in range(len(vectors)):
        rows = torch.cat([dual[index : index + 1], open_rows])
        row = _complete_row(first, next_layer.inputs, row_space, blank.active_units[index], rows, generator)
        if row is not None:
            blank.rows[index] = row
            completed.append(index)
    return _Atoms(*(part[completed] for part in blank)) if completed else None


def _complete_row(
    first: FirstLayer,
    inputs: Callable[[Tensor], Tensor],
    row_space: Tensor,
    kept: Tensor,
    rows: Tensor,
    generator: torch.Generator,
) -> Tensor | None:
    """Return the combination of rows (r, columns), the first with factor 1, that the next layer confirms; or None."""
    if int(kept.sum()) < len(row_space) + 2 * len(rows):
        return None
    span = span_rows(rows, has_bias=first.has_bias)
    frame = frame_of(row_space * kept)
    problem = Intersection(span.offset @ first.weight.T, span.directions @ first.weight.T, inputs, frame, kept)
    for starts in _COMPLETIONS:
        points, norms = solve_points(problem, span.starts(starts, generator))
        best = int(norms.argmin())
        if float(norms[best]) < _COMPLETED:
            row = span.offset + points[best] @ span.directions
            return row / torch.linalg.lstsq(rows.T, row[:, None]).solution[0, 0]
    return None


def _answer(
    observation: Observation,
    first: FirstLayer,
    atoms: _Atoms,
    rank: int,
    size: int,
    rounds: int,
    diagnostics: dict[str, float],
) -> Reconstruction:
    """Determine the scale of the rows; for a complete basis, also solve for masks and labels of the later layers."""
    count = len(atoms.rows)
    diagnostics = {**diagnostics, "examples found": float(count)}
    if not count:
        reason = f"gave up: 0 of {rank} examples separated in {rounds} rounds, too few exact zeros"
        return no_guess(observation, reason, iterations=rounds, diagnostics=diagnostics)
    zero_shares = (atoms.deltas == 0).double().mean(1)
    diagnostics["zero share"] = float(zero_shares.median())
    row_space = (
        None if first.behind is None else row_space_behind(observation, first.behind, _max_examples(observation, rank))
    )
    inputs, _ = scale(observation, first, atoms.rows, atoms.active_units, row_space)
    examples = examples_from(inputs, first.layer, observation)
    notes = (
        f"layer '{first.layer.name}' sees the pixels",
        f"exact zeros a separated example: {float(zero_shares.min()):.0%} or more",
    )
    if count < rank:
        stopped = f"separated {count} of {rank} examples in {rounds} rounds, too few exact zeros for the others"
        return part_of_batch(observation, first, examples, size, rounds, stopped, notes, diagnostics)
    unexplained = float((first.gradient - atoms.deltas.T @ atoms.rows).norm() / first.gradient.norm())
    residual = (unexplained, "relative residual of the first gradient, zeros enforced")
    guess = whole_batch(observation, examples, residual, rounds, notes, diagnostics)
    is_proven = first.has_bias and unexplained < EXACT and inexact(observation) is None  # the bias determines the scale
    return replace(guess, has_exact_inputs=is_proven)
