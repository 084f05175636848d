"""Sparsest vectors of a subspace: find q such that U q has most exact zeros, for U (h, R) with orthonormal columns.

Dictionary learning by a smoothed l1 descent on the sphere from many starts, then reweighted least squares, which makes
near zeros exact. Under noise exact zeros do not exist, and only the descent is used.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.time_budget import check_deadline

_DESCENT_STEPS = 200
_FIRST_SMOOTHING, _LAST_SMOOTHING = 0.3, 0.03
_FIRST_STEP = 0.5
_NORM_FLOOR = 0.3
_SAME_START = 0.9
_SAME_VECTOR = 0.999
_DECIDING = torch.logspace(-0.8, -2, 80, dtype=torch.float64)
_SHARPENING = torch.logspace(-2.5, -7, 10, dtype=torch.float64)
_SMOOTHINGS = torch.cat([_DECIDING, _SHARPENING])
_GENTLE = tuple(
    torch.cat([torch.logspace(exponent, exponent - 0.5, 40, dtype=torch.float64), _SHARPENING]) for exponent in (-2, -3)
)
_AIMED = 64  # vectors that are searched in the complement of the known vectors
ZERO = 1e-5
_INDEPENDENT = 1e-3
_ROUNDING = 1e-15  # relative to a matrix; it may make its smallest eigenvalue negative
_SURELY = 5.0  # standard deviations of rounding
_FINEST = 1e-9  # relative to a row's norm: accuracy of reweighted least squares in double precision
_DECIDED = 1e-2  # relative to a column's typical entry: a row shows a zero if its rounding is below
_MUCH_LESS = 0.6  # relative to the usual share of zeros
_FIXING = 2  # zeros that determine a vector of R entries with a safety margin, over R
_PARTS = 5
_MANY = 48  # columns above which reweighting dominates the cost
_TRIMMED_STEPS, _INVERSE_ITERATIONS = 8, 3
_BEYOND_CHANCE = 8  # zeros beyond the number that any vector of the space can have


class Space(NamedTuple):
    """A subspace whose sparsest vectors are searched.

    Attributes:
        basis: U without its zero rows, shape (h, R), orthonormal columns, float64.
        sizes: factors of its rows that make entries of one column comparable, shape (h,).
        noise: standard deviation of the errors of U, along each column, shape (h, R).
    """

    basis: Tensor
    sizes: Tensor
    noise: Tensor

    @classmethod
    def of(cls, basis: Tensor) -> Space:
        """Return the space of a basis of comparable entries, with the rounding errors of single precision."""
        errors = ZERO / _SURELY * basis.norm(dim=1, keepdim=True)
        return cls(basis, torch.ones(len(basis)).to(basis), errors.expand_as(basis))

    def tolerances(self, vectors: Tensor) -> Tensor:
        """Return the entry size below which rounding hides a zero, in units of the norm of its row of U: (k, h)."""
        errors = (vectors.square() @ self.noise.square().T).sqrt() / self.basis.norm(dim=1)
        return (_SURELY * errors).clamp_min(_FINEST)


class Sparse(NamedTuple):
    """Sparse vectors found so far, most zeros first.

    Attributes:
        vectors: unit vectors q, shape (k, R).
        zero_shares: share of exact zeros in U q, among entries that rounding does not hide, (k,).
    """

    vectors: Tensor
    zero_shares: Tensor

    @property
    def trusted_vectors(self) -> Tensor:
        """Vectors with a usual number of zeros. A mixture of two columns has fewer: it is zero only where both are."""
        if not len(self.vectors):
            return self.vectors
        return self.vectors[self.zero_shares >= _MUCH_LESS * self.zero_shares.median()]

    @property
    def are_alike(self) -> bool:
        """Whether all vectors are trusted."""
        return len(self.trusted_vectors) == len(self.vectors)


def nothing_found(rank: int) -> Sparse:
    """Return an empty list of vectors for a subspace of dimension R."""
    return Sparse(torch.empty(0, rank, dtype=torch.float64), torch.empty(0, dtype=torch.float64))


def search_vectors(
    space: Space | Tensor, known: Sparse, starts: int, generator: torch.Generator, leading: int | None = None
) -> Sparse:
    """Add the vectors of one round of starts, at most R independent vectors in total.

    Args:
        space: the searched space, or U alone.
        known: result of earlier rounds.
        starts: number of random points on the sphere.
        generator: random source of the starts.
        leading: number of columns of U in which the descent searches; None: all. Examples of tiny loss dominate the
            last columns, in few rows, which distract a search for the others.
    """
    space = space if isinstance(space, Space) else Space.of(space)
    rank = space.basis.shape[1]
    leading = rank if leading is None else leading
    chosen, is_new = _candidates(space, known, starts, generator, leading), leading == rank >= _MANY
    while is_new:
        before, known = known, most_zeros(space, torch.cat([known.vectors, refine_vectors(space, chosen)]))
        if len(known.vectors) == rank and known.are_alike:
            return known
        is_new = len(known.vectors) > len(before.vectors)
        if is_new:
            chosen = _candidates(space, known, starts, generator, leading)
    trusted, directions = known.trusted_vectors, F.normalize(space.basis, dim=1)
    if leading == rank:
        refined = [sharpen_vectors(directions, chosen)]
    else:
        inner = sharpen_vectors(F.normalize(space.basis[:, :leading], dim=1), chosen)
        refined = [
            sharpen_vectors(directions, F.pad(inner, (0, rank - leading)), smoothings=smoothings)
            for smoothings in _GENTLE
        ]
    if 0 < len(trusted) < rank:
        aims = _starts(torch.eye(rank, dtype=torch.float64), trusted, 2 * _AIMED, generator)[::2]
        refined.append(sharpen_vectors(directions, aims, aims))
    return most_zeros(space, torch.cat([known.vectors, *refined]))


def _candidates(space: Space, known: Sparse, starts: int, generator: torch.Generator, leading: int) -> Tensor:
    """Return unit vectors (k, leading) at the ends of descents from many starts, in the leading columns of U."""
    preconditioner, rows = _precondition(space.basis[:, :leading])
    shadows = known.trusted_vectors[:, :leading]
    ends = _run_descent(rows, _starts(preconditioner, shadows[: leading - 1], starts, generator))
    return F.normalize(_best(rows, ends, leading + leading // 2 + 4) @ preconditioner.T, dim=1)


def most_zeros(space: Space, vectors: Tensor) -> Sparse:
    """Return independent unit vectors (k, R) with more zeros than chance allows, most zeros first."""
    rank = space.basis.shape[1]
    are_zero, are_decided = zeros(space, vectors)
    counts, decided = (are_zero & are_decided).double().sum(1), are_decided.double().sum(1).clamp_min(1.0)
    order = ((counts - rank) / decided).argsort(descending=True)
    order = order[counts[order] >= rank + _BEYOND_CHANCE]
    kept = order[independent(vectors[order])]
    return Sparse(vectors[kept], (counts / decided)[kept])


def zeros(space: Space, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks of zero entries of U q, and of entries with rounding far below a usual entry, both (k, h)."""
    values, limits = entries(space.basis, vectors).abs(), space.tolerances(vectors)
    scale = space.basis.norm(dim=1) * space.sizes
    are_zero = values < limits
    usual = torch.where(are_zero, torch.nan, values * scale).nanmedian(1, keepdim=True).values.nan_to_num()
    return are_zero, limits * scale < _DECIDED * usual


def sparsest_directions(basis: Tensor, noise: float, starts: int, generator: torch.Generator) -> Tensor:
    """Return at most R unit vectors q (k, R) for which U q is sparse up to noise, best first.

    Args:
        basis: U without its zero rows, shape (h, R), float64.
        noise: size of the noise's entries, relative to the entries of the matrix that U spans.
        starts: number of random points on the sphere.
        generator: random source of the starts.
    """
    rank = basis.shape[1]
    preconditioner, rows = _precondition(basis)
    first = _starts(preconditioner, torch.empty(0, rank, dtype=basis.dtype), starts, generator)
    smoothing = min(max(_LAST_SMOOTHING, 3.0 * noise), _FIRST_SMOOTHING)
    return F.normalize(_best(rows, _run_descent(rows, first, smoothing), rank) @ preconditioner.T, dim=1)


def entries(basis: Tensor, vectors: Tensor) -> Tensor:
    """Return U q, each entry in units of the norm of its row of U, shape (k, h)."""
    return vectors @ F.normalize(basis, dim=1).T


def _precondition(basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whitening matrix C, and the rows (h, R) to search: short rows damped as noise, then whitened by C."""
    norms = basis.norm(dim=1, keepdim=True)
    damped = basis / (norms + _NORM_FLOOR * norms.median())
    root = torch.linalg.cholesky(damped.T @ damped / len(damped))
    whitening = torch.linalg.inv(root).T
    return whitening, damped @ whitening


def _starts(preconditioner: Tensor, known: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random points (count, R) on the sphere; every second point is orthogonal to the known vectors.

    Sparse columns with independent zeros are nearly orthogonal after whitening, so the missing columns are close to the
    complement of the known columns.
    """
    points = torch.randn((count, len(preconditioner)), generator=generator, dtype=torch.float64)
    if len(known):
        frame = torch.linalg.qr(torch.linalg.solve(preconditioner, known.T)).Q  # (R, k)
        points[::2] -= points[::2] @ frame @ frame.T
    return F.normalize(points, dim=1)


def _run_descent(rows: Tensor, first: Tensor, last_smoothing: float = _LAST_SMOOTHING) -> Tensor:
    """Riemannian descent of mean sqrt(z^2 + mu^2), z = rows q, from all starts (K, R) at once, with falling mu.

    float32 is enough: mu is far above its rounding.
    """
    rows, points = rows.float(), first.float()
    for smoothing in torch.logspace(0, 1, _DESCENT_STEPS, base=last_smoothing / _FIRST_SMOOTHING).tolist():
        mu = _FIRST_SMOOTHING * smoothing
        values = points @ rows.T
        slope = (values * (values.square() + mu**2).rsqrt()) @ rows / len(rows)
        tangent = slope - (slope * points).sum(1, keepdim=True) * points
        points = F.normalize(points - _FIRST_STEP * smoothing**0.75 * tangent, dim=1)
    return F.normalize(points.double(), dim=1)


def _best(rows: Tensor, candidates: Tensor, limit: int) -> Tensor:
    """Return at most `limit` distinct candidates, sparsest first."""
    score = (candidates @ rows.T).square().add(_LAST_SMOOTHING**2).sqrt().mean(1)
    return _distinct(candidates[score.argsort()], _SAME_START, limit)


def _distinct(vectors: Tensor, same: float, limit: int) -> Tensor:
    """Keep, in order, the unit vectors whose |cosine| with all kept vectors is below `same`."""
    kept: list[Tensor] = []
    while len(vectors) and len(kept) < limit:
        kept.append(vectors[0])
        vectors = vectors[(vectors @ vectors[0]).abs() < same]
    return torch.stack(kept)


def sharpen_vectors(
    directions: Tensor, vectors: Tensor, aims: Tensor | None = None, smoothings: Tensor = _SMOOTHINGS
) -> Tensor:
    """Reweighted least squares: find the smallest eigenvector, with larger weights where an entry is near zero.

    Each step is one inverse iteration; the weights change slowly at first, until the zero entries are clear. With
    `aims` (k, R) a vector keeps its product with its aim meanwhile, so that it cannot converge to known vectors, which
    are orthogonal to the aim.
    """
    unit = vectors.shape[1] ** -0.5
    products = (directions[:, :, None] * directions[:, None]).flatten(1)  # (h, R * R)
    for step, smoothing in enumerate(smoothings.tolist()):
        weights = 1.0 / ((vectors @ directions.T).square() + (smoothing * unit) ** 2)  # (k, h)
        gram = (weights @ products).view(-1, *(2 * vectors.shape[1:]))
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += _ROUNDING * diagonal.sum(1, keepdim=True)
        root = torch.linalg.cholesky(gram)
        targets = vectors if aims is None or step >= len(_DECIDING) else aims
        vectors = F.normalize(torch.cholesky_solve(targets[:, :, None], root).squeeze(2), dim=1)
    return vectors


def refine_vectors(space: Space, vectors: Tensor) -> Tensor:
    """Return the exact vectors near `vectors` (k, R) with at least 2 R zeros and a fifth of all entries, shape (j, R).

    Each of several steps solves for zeros at the currently smallest entries; a few nonzero entries among them are soon
    outweighed. `sharpen_vectors` needs fewer zeros, and a hundred times the work.

    Raises:
        DeadlineReached: no time is left.
    """
    directions = F.normalize(space.basis, dim=1)
    count = max(_FIXING * vectors.shape[1], len(directions) // _PARTS)
    if count > len(directions):
        return vectors[:0]
    estimates = vectors
    for _ in range(_TRIMMED_STEPS):
        check_deadline()
        smallest = (estimates @ directions.T).abs().topk(count, largest=False).indices
        estimates = torch.stack(
            [_null(directions[rows], sparse) for rows, sparse in zip(smallest, estimates, strict=True)]
        )
    are_zero, _ = zeros(space, estimates)
    is_exact = (are_zero.sum(1) >= count) & ((estimates * vectors).sum(1).abs() > _SAME_START)
    exact = [
        _null(directions[rows], sparse) for rows, sparse in zip(are_zero[is_exact], estimates[is_exact], strict=True)
    ]
    return torch.stack(exact) if exact else vectors[:0]


def _null(rows: Tensor, estimate: Tensor) -> Tensor:
    """Return the unit vector (R,) nearest to the null space of rows (m, R), by inverse iterations from `estimate`."""
    gram = rows.T @ rows
    gram.diagonal().add_(_ROUNDING * gram.trace())
    root = torch.linalg.cholesky(gram)
    for _ in range(_INVERSE_ITERATIONS):
        estimate = F.normalize(torch.cholesky_solve(estimate[:, None], root).squeeze(1), dim=0)
    return estimate


def independent(vectors: Tensor) -> Tensor:
    """Return the indices of a maximal independent list of unit vectors (k, R), greedily from the first vector on."""
    kept: list[int] = []
    frame = torch.empty(0, vectors.shape[1], dtype=vectors.dtype)
    for index, vector in enumerate(vectors):
        residual = vector - (frame @ vector) @ frame
        is_new = not kept or (vectors[kept] @ vector).abs().max() < _SAME_VECTOR
        if is_new and residual.norm() > _INDEPENDENT:
            kept.append(index)
            frame = torch.cat([frame, F.normalize(residual, dim=0)[None]])
    return torch.tensor(kept, dtype=torch.long)
