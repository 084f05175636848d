"""spear: separate a batch exactly from a first linear layer, by random draws of rows with common zeros (SPEAR).

With a share s of zeros in a column, a share z of the rows that are not zero in all columns is zero in it; H_B is the
harmonic number. With ReLU a unit has no gradient if its pre-activation is negative and, without dropout, a gradient if
it is positive; vectors are exchanged as long as that raises the agreement. Dropout adds zeros, so draws succeed more
often, but it also sets active units to zero.

Idea: G = D X has rank B. If B - 1 drawn rows of a basis U of its column space are zero in the same column of D, their
    null vector q gives that column; zeros of ReLU or dropout make that likely. U q then has far more zeros than drawn.
Equation: D_i = U q_i; about H_B / z^(B-1) draws with z = (s - s^B) / (1 - s^B), s the share of zeros in a column.
Assumes: honest-but-curious server, one exact gradient; labels and batch size need not be known. Scale and sign come
    from the bias, or without a bias from the next layer.
Recovers: exact images, then masks and labels layer by layer. The signs of the pre-activations check the choice of
    vectors for ReLU, in one direction only under dropout.
Fails: batches beyond about 16, since draws double with each example; no zeros (GELU without dropout); noise. It gives
    up at once if more than `draws` are expected. sparse-dictionary works for larger batches.
Source: Dimitrov et al. 2024, arXiv 2403.03945.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks.batch_separation._factors import Factors, factorise, hopeless, inputs_of, separate
from attacks.batch_separation._first_layer import FirstLayer, batch_refusal, first_layer
from attacks.batch_separation._sparsest import ZERO, Sparse, entries, independent, nothing_found
from attacks.core.gradient_distance import knows_rates
from attacks.core.labels import random_labels
from attacks.core.layers import PixelLayer
from attacks.core.outlooks import outlook_of
from attacks.core.results import no_examples, no_guess
from attacks.core.tolerances import EXACT, MATCHES
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.nets.layer_calls import layer_outputs
from fedsim.core.nets.masks import record_masks
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_DRAWS_AT_ONCE = 1024
_PROBES = 64
_ASSUMED_RATE = 0.25  # for unknown rates; too low costs draws, too high costs examples
_CANDIDATES_PER_EXAMPLE = 4
_ZERO_OF_DOUBLE, _ZERO_OF_SINGLE = 1e-9, 1e-4  # relative; the null vector of few rows enlarges rounding errors
_ONE_DIRECTION = 1.0 - 1e-6  # cosine of two estimates of one column; they differ by rounding of the null vector
_AGREES = 1.0 - 1e-9


_DOUBLINGS = 40  # of the draws; it gives up long before


class SpearConfig(Config):
    """Settings of the draws. On one core, 100,000 draws for 16 examples and 512 units need about 4 seconds."""

    draws: int = Field(default=200_000, ge=1, description="most draws; it gives up at once if more are expected")


class _Gates(NamedTuple):
    """Conditions under which units of the first layer pass no gradient, measured on noise inputs."""

    zero_share: float
    is_gated_by_sign: bool  # no gradient if the pre-activation is negative
    sign_only: bool  # and always a gradient if it is positive


Score = Callable[[Sparse], float]


@final
@attack(
    "spear",
    summary="exact batches from zeros of ReLU or dropout, by random draws (SPEAR)",
    tier="core",
    paper="2403.03945",
    fidelity="reproduction",
    paper_steps=(
        ("low-rank factors of the weight gradient", "attacks.batch_separation._factors.factorise"),
        ("candidate directions: null vectors of drawn rows", "null_vectors"),
        ("threshold on the share of zeros", "least_zero_share"),
        ("expected number of draws", "expected_draws"),
        ("greedy choice of independent directions with most zeros", "attacks.batch_separation._sparsest.independent"),
        ("score: signs of pre-activations against zeros of the gradient", "_score"),
        ("exchange of directions while the score grows", "_exchange"),
        ("scale of each input from the bias gradient", "attacks.batch_separation._first_layer.scale"),
    ),
)
class Spear(BatchSeparationAttack[SpearConfig]):
    """Draws rows and keeps the null vectors with most zeros."""

    effort: ClassVar[Effort] = "search"
    example: ClassVar[Tables] = {"federation": {"batch_size": 2}}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, single examples, and models without a first linear layer of determinable scale."""
        return batch_refusal(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect draws that double with each example, about a second for nine examples."""
        seconds = 2.0 ** min((observation.batch_size or 1) - 9, _DOUBLINGS)
        return outlook_of(observation, 120.0, 0.3, "drawn rows rarely share the zeros of an example", seconds=seconds)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Draw until the examples found explain the gradient or the draws are used up."""
        first = first_layer(observation)
        assert first is not None
        factors = factorise(
            first.gradient,
            first.gradient,
            lambda singular: int((singular > EXACT * singular[0]).sum()),
        )
        rank = len(factors.right)
        size = observation.batch_size or rank
        reason = hopeless(rank, len(factors.basis), size)
        if reason is not None:
            return no_guess(observation, reason, iterations=0, diagnostics={"numerical rank": float(rank)})
        gates = _gates(observation, first.layer, generator)
        expected = expected_draws(gates.zero_share, rank)
        diagnostics = {
            "numerical rank": float(rank),
            "expected draws": expected,
            "zero share on noise": gates.zero_share,
        }
        if expected > self.config.draws:
            reason = (
                f"gave up before drawing: about {expected:.0e} draws are expected for {rank} examples at "
                f"{gates.zero_share:.0%} zeros, 'draws' allows {self.config.draws}"
            )
            return no_guess(observation, reason, iterations=0, diagnostics=diagnostics)
        return self._draw(observation, first, factors, gates, diagnostics, generator, on_step)

    def _draw(
        self,
        observation: Observation,
        first: FirstLayer,
        factors: Factors,
        gates: _Gates,
        diagnostics: dict[str, float],
        generator: torch.Generator,
        on_step: OnStep,
    ) -> Reconstruction:
        rank = len(factors.right)
        least, nothing = least_zero_share(gates.zero_share, rank), no_examples(observation)
        is_double = observation.update.tensors[f"{first.layer.name}.weight"].dtype == torch.float64
        zero = _ZERO_OF_DOUBLE if is_double else _ZERO_OF_SINGLE
        candidates, best, chosen = nothing_found(rank), None, 0
        rounds = math.ceil(self.config.draws / _DRAWS_AT_ONCE)
        for round_ in range(1, rounds + 1):
            before = candidates
            fresh = null_vectors(factors.basis, _DRAWS_AT_ONCE, zero, least, generator)
            candidates = _merge(factors.basis, candidates, fresh, zero, least)
            order = independent(candidates.vectors)
            chosen = len(order)
            missing = 1.0 - chosen / rank
            on_step(Step(0, round_, rounds, missing, missing, nothing))
            if missing > 0.0 or (best is not None and torch.equal(before.zero_shares, candidates.zero_shares)):
                continue
            basis, agreement = _exchange(_score(observation, first, factors, gates), candidates, order)
            draws = {"draws": float(round_ * _DRAWS_AT_ONCE), "candidates": float(len(candidates.vectors))}
            signs = {"sign agreement": agreement} if gates.is_gated_by_sign else {}
            guess = separate(observation, first, factors, basis, round_, {**diagnostics, **draws, **signs})
            best = guess if best is None or guess.objective < best.objective else best
            if best.objective < MATCHES and agreement > _AGREES:
                return best
        if best is not None:
            return best
        reason = f"gave up: {chosen} of {rank} examples separated in {rounds * _DRAWS_AT_ONCE} draws"
        diagnostics = {**diagnostics, "draws": float(rounds * _DRAWS_AT_ONCE)}
        return no_guess(observation, reason, iterations=rounds, diagnostics=diagnostics)


def live_zero_share(zero_share: float, rank: int, columns: int = 1) -> float:
    """Return the share of live rows in which `columns` given columns out of `rank` are all zero.

    Args:
        zero_share: q, share of zeros in a column, independent between columns.
        rank: B.
        columns: number of columns; a mixture of two is zero where both are.
    """
    dead = zero_share**rank
    return (zero_share**columns - dead) / (1.0 - dead) if dead < 1.0 else 0.0


def least_zero_share(zero_share: float, rank: int) -> float:
    """Return tau, a quarter of the way from the zero share of a mixture of two columns to that of a single column.

    A column of few units may have far fewer zeros than expected; a mixture that passes is rejected later.
    """
    return (live_zero_share(zero_share, rank) + 3 * live_zero_share(zero_share, rank, 2)) / 4


def expected_draws(zero_share: float, rank: int) -> float:
    """Return the expected number of draws for all B columns, H_B / z^(B-1); infinite if no row has a zero."""
    share = live_zero_share(zero_share, rank)
    if rank == 1:
        return 1.0
    return sum(1.0 / number for number in range(1, rank + 1)) / share ** (rank - 1) if share > 0 else math.inf


def null_vectors(basis: Tensor, draws: int, zero: float, least: float, generator: torch.Generator) -> Tensor:
    """Return unit vectors q (k, R), each orthogonal to R - 1 drawn rows of the basis, with enough zeros in U q.

    Args:
        basis: U, shape (h, R), without rows of zeros.
        draws: number of draws.
        zero: entries below it, in units of their row's norm, count as zero.
        least: share of zeros above which a vector is kept.
        generator: random source of the draws.
    """
    height, rank = basis.shape
    directions = F.normalize(basis, dim=1)
    chosen = torch.rand((draws, height), generator=generator).topk(rank - 1, dim=1).indices
    vectors = torch.linalg.qr(directions[chosen].mT, mode="complete").Q[:, :, -1]
    return vectors[(vectors @ directions.T).abs().lt(zero).double().mean(1) > least]


def _merge(basis: Tensor, sparse: Sparse, fresh: Tensor, zero: float, least: float) -> Sparse:
    """Add new vectors (up to sign), sharpened; most zeros first, so that a column precedes mixtures close to it."""
    directions, strict = F.normalize(basis, dim=1), min(zero, ZERO)
    waiting, kept = _sort_by_zeros(directions, torch.cat([sparse.vectors, fresh]), zero).vectors, sparse.vectors[:0]
    while len(waiting) and len(kept) < _CANDIDATES_PER_EXAMPLE * basis.shape[1]:
        first = _sharpen(directions, _sharpen(directions, waiting[0], zero), strict)
        kept = torch.cat([kept, first[None]])
        waiting = waiting[1:][(waiting[1:] @ waiting[0]).abs() < _ONE_DIRECTION]
    merged = _sort_by_zeros(directions, kept, strict)
    enough = merged.zero_shares > least
    return Sparse(merged.vectors[enough], merged.zero_shares[enough])


def _sort_by_zeros(directions: Tensor, vectors: Tensor, zero: float) -> Sparse:
    shares = (vectors @ directions.T).abs().lt(zero).double().mean(1)
    order = shares.argsort(descending=True, stable=True)
    return Sparse(vectors[order], shares[order])


def _sharpen(directions: Tensor, vector: Tensor, zero: float) -> Tensor:
    """Return the unit vector that comes closest to zero on all rows that `vector` makes zero."""
    return torch.linalg.svd(directions[(directions @ vector).abs() < zero]).Vh[-1]


def _gates(observation: Observation, layer: PixelLayer, generator: torch.Generator) -> _Gates:
    """Measure the gradient of the first layer's outputs on noise, in a copy of the model."""
    model = observation.working_copy("train").requires_grad_()
    for module in model.modules():
        if isinstance(module, pytorch.Dropout) and not knows_rates(observation):
            module.p = _ASSUMED_RATE
    dtype = next(model.parameters()).dtype
    noise = torch.randn((_PROBES, *observation.spec.shape), generator=generator, dtype=dtype)
    labels = random_labels(observation, _PROBES, generator)
    with record_masks(model, generator) as recording, layer_outputs(model, [layer.name]) as seen:
        loss = observation.loss(model(noise), labels)
    outputs = seen[0][1]
    (gradient,) = torch.autograd.grad(loss, outputs)
    passes, positive = gradient != 0, outputs > 0
    by_sign = not bool((passes & ~positive).any())
    return _Gates(float((~passes).double().mean()), by_sign, by_sign and not recording.sites)


def _score(observation: Observation, first: FirstLayer, factors: Factors, gates: _Gates) -> Score:
    """Return the function from a basis to its score in [0, 1]: agreement of zeros with pre-activation signs.

    The score is 1 if signs show nothing.
    """
    weight = first.weight[factors.live]

    def score(sparse: Sparse) -> float:
        if not gates.is_gated_by_sign:
            return 1.0
        inputs = inputs_of(observation, first, factors, sparse)
        outputs = inputs @ weight[:, : inputs.shape[1]].T + (weight[:, -1] if first.has_bias else 0.0)
        positive = outputs > 0
        passes = entries(factors.basis, sparse.vectors).abs() > ZERO
        agrees = (positive == passes) if gates.sign_only else positive[passes]
        return float(agrees.double().mean())

    return score


def _exchange(score: Score, sparse: Sparse, order: Tensor) -> tuple[Sparse, float]:
    """Replace chosen vectors by spare vectors as long as that raises the score."""
    chosen = order.tolist()
    best = score(_pick(sparse, chosen))
    for spare in sorted(set(range(len(sparse.vectors))) - set(chosen)):
        for place in range(len(chosen)):
            if best > _AGREES:
                return _pick(sparse, chosen), best
            tried = [*chosen[:place], spare, *chosen[place + 1 :]]
            if len(independent(sparse.vectors[tried])) < len(tried):
                continue
            value = score(_pick(sparse, tried))
            if value > best:
                chosen, best = tried, value
                break
    return _pick(sparse, chosen), best


def _pick(sparse: Sparse, indices: list[int]) -> Sparse:
    return Sparse(sparse.vectors[indices], sparse.zero_shares[indices])
