"""Sparsest vectors of a subspace: find q such that U q has most exact zeros, for U (h, R) with orthonormal columns.

Dictionary learning by a smoothed l1 descent on the sphere from many starts, then reweighted least squares, which makes
near zeros exact. Under noise there are no exact zeros, and only the descent is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_DESCENT_STEPS = 200
_FIRST_SMOOTHING, _LAST_SMOOTHING = 0.3, 0.03
_FIRST_STEP = 0.5
_NORM_FLOOR = 0.3
_SAME_START = 0.9
_SAME_VECTOR = 0.999
_DECIDING = torch.logspace(-0.8, -2, 80, dtype=torch.float64)
_SHARPENING = torch.logspace(-2.5, -7, 10, dtype=torch.float64)
ZERO = 1e-5
_INDEPENDENT = 1e-3


@dataclass(frozen=True)
class Sparse:
    """Vectors found so far, most zeros first.

    Attributes:
        vectors: unit vectors q, shape (k, R).
        zero_shares: share of the entries of U q that are exactly zero, shape (k,).
    """

    vectors: Tensor
    zero_shares: Tensor


def nothing_found(rank: int) -> Sparse:
    """Return an empty list of vectors for a subspace of dimension R."""
    return Sparse(torch.empty(0, rank, dtype=torch.float64), torch.empty(0, dtype=torch.float64))


def searched(basis: Tensor, known: Sparse, starts: int, generator: torch.Generator) -> Sparse:
    """Add the vectors that one round of starts finds, at most R independent ones in all.

    Args:
        basis: U without its zero rows, shape (h, R), float64.
        known: result of earlier rounds.
        starts: number of random points on the sphere.
        generator: for the starts.
    """
    height, rank = basis.shape
    preconditioner, rows = _precondition(basis)
    candidates = _descended(rows, _starts(preconditioner, known.vectors, starts, generator))
    chosen = _best(rows, candidates, rank + rank // 2 + 4)
    directions = F.normalize(basis, dim=1)
    refined = _refine(directions, F.normalize(chosen @ preconditioner.T, dim=1))
    found = torch.cat([known.vectors, refined])
    zero_shares = (entries(basis, found).abs() < ZERO).double().mean(1)
    order = zero_shares.argsort(descending=True)
    order = order[zero_shares[order] >= (rank + 8) / height]
    kept = order[independent(found[order])]
    return Sparse(found[kept], zero_shares[kept])


def sparsest_directions(basis: Tensor, noise: float, starts: int, generator: torch.Generator) -> Tensor:
    """Return at most R unit vectors q (k, R) for which U q is sparse up to noise, best first.

    Args:
        basis: as in `searched`.
        noise: size of the noise's entries, relative to those of the matrix that U spans.
        starts: number of random points on the sphere.
        generator: for the starts.
    """
    rank = basis.shape[1]
    preconditioner, rows = _precondition(basis)
    first = _starts(preconditioner, torch.empty(0, rank, dtype=basis.dtype), starts, generator)
    smoothing = min(max(_LAST_SMOOTHING, 3.0 * noise), _FIRST_SMOOTHING)
    return F.normalize(_best(rows, _descended(rows, first, smoothing), rank) @ preconditioner.T, dim=1)


def entries(basis: Tensor, vectors: Tensor) -> Tensor:
    """Return U q, each entry in units of the norm of its row of U, shape (k, h)."""
    return vectors @ F.normalize(basis, dim=1).T


def _precondition(basis: Tensor) -> tuple[Tensor, Tensor]:
    """The whitening matrix C, and the rows (h, R) to search on: short rows are damped as noise, then whitened by C."""
    norms = basis.norm(dim=1, keepdim=True)
    damped = basis / (norms + _NORM_FLOOR * norms.median())
    root = torch.linalg.cholesky(damped.T @ damped / len(damped))
    whitening = torch.linalg.inv(root).T
    return whitening, damped @ whitening


def _starts(preconditioner: Tensor, known: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random points (count, R) on the sphere; every second one is orthogonal to the known vectors.

    Sparse columns with independent zeros are nearly orthogonal after whitening, so the missing ones are close to the
    complement of the known ones.
    """
    points = torch.randn((count, len(preconditioner)), generator=generator, dtype=torch.float64)
    if len(known):
        frame = torch.linalg.qr(torch.linalg.solve(preconditioner, known.T)).Q  # (R, k)
        points[::2] -= points[::2] @ frame @ frame.T
    return F.normalize(points, dim=1)


def _descended(rows: Tensor, first: Tensor, last_smoothing: float = _LAST_SMOOTHING) -> Tensor:
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
    """Return at most `limit` candidates that differ, sparsest first."""
    score = (candidates @ rows.T).square().add(_LAST_SMOOTHING**2).sqrt().mean(1)
    return _distinct(candidates[score.argsort()], _SAME_START, limit)


def _distinct(vectors: Tensor, same: float, limit: int) -> Tensor:
    """Keep, in order, the unit vectors whose |cosine| with all kept ones is below `same`."""
    kept: list[Tensor] = []
    while len(vectors) and len(kept) < limit:
        kept.append(vectors[0])
        vectors = vectors[(vectors @ vectors[0]).abs() < same]
    return torch.stack(kept)


def _refine(directions: Tensor, vectors: Tensor) -> Tensor:
    """Reweighted least squares: find the smallest eigenvector, with larger weights where an entry is near zero.

    Each step makes one inverse iteration; the weights change slowly at first, until it is clear which entries are zero.
    """
    unit = vectors.shape[1] ** -0.5
    products = (directions[:, :, None] * directions[:, None]).flatten(1)  # (h, R * R)
    for smoothing in torch.cat([_DECIDING, _SHARPENING]).tolist():
        weights = 1.0 / ((vectors @ directions.T).square() + (smoothing * unit) ** 2)  # (k, h)
        gram = (weights @ products).view(-1, *(2 * vectors.shape[1:]))
        root = torch.linalg.cholesky(gram)
        vectors = F.normalize(torch.cholesky_solve(vectors[:, :, None], root).squeeze(2), dim=1)
    return vectors


def independent(vectors: Tensor) -> Tensor:
    """Return the indices of a maximal independent list of unit vectors (k, R), greedily from the first one on."""
    kept: list[int] = []
    frame = torch.empty(0, vectors.shape[1], dtype=vectors.dtype)
    for index, vector in enumerate(vectors):
        rest = vector - (frame @ vector) @ frame
        is_new = not kept or (vectors[kept] @ vector).abs().max() < _SAME_VECTOR
        if is_new and rest.norm() > _INDEPENDENT:
            kept.append(index)
            frame = torch.cat([frame, F.normalize(rest, dim=0)[None]])
    return torch.tensor(kept, dtype=torch.long)
