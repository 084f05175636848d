"""Span of a weight gradient's rows: its rank, its exactness, and the parts of vectors outside it.

A single example gives a matrix of rank one, B examples at most rank B. The residual is rounding, or noise, pruning and
quantisation. Zeros of the gradient are meaningful only if the residual is rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.tolerances import EXACT, LEAST

_POWER_STEPS = 12
_SETTLED = 1e-14
_ABOVE_ROUNDING = 30.0  # ratio to the largest singular value that is surely rounding; smaller signals are lost
_CLEAR = 10.0  # ratio of neighbouring singular values; float32 has about 100


class RankOne(NamedTuple):
    """The best approximation l r^T of a matrix W (m, n).

    Attributes:
        row: r with root mean square 1, shape (n,), of either sign.
        residual: |W - l r^T| / |W|, 0 for a zero matrix.
    """

    row: Tensor
    residual: float


def rank_one(weight: Tensor) -> RankOne:
    """Return the rank-one factor of a float64 matrix, by power iteration, or if that is slow by a Gram matrix."""
    total = weight.norm()
    row = _power(weight)
    if row is None:
        row = _find_leading_vector(weight)
    left = weight @ row
    residual = float(torch.addr(weight, left, row, alpha=-1.0).norm() / total.clamp_min(LEAST))
    return RankOne(row * math.sqrt(len(row)), residual)


def _power(weight: Tensor) -> Tensor | None:
    """Return the first right singular vector, or None if the iteration does not converge."""
    row = weight[weight.square().sum(1).argmax()]
    row = row / row.norm().clamp_min(LEAST)
    for _ in range(_POWER_STEPS):
        new = weight.T @ (weight @ row)
        new = new / new.norm().clamp_min(LEAST)
        if float((new - row).square().sum()) < _SETTLED:
            return new
        row = new
    return None


def _find_leading_vector(weight: Tensor) -> Tensor:
    if weight.shape[0] > weight.shape[1]:
        return torch.linalg.eigh(weight.T @ weight).eigenvectors[:, -1]
    row = torch.linalg.eigh(weight @ weight.T).eigenvectors[:, -1] @ weight
    return row / row.norm()


class Spectrum(NamedTuple):
    """Summary of the singular values of a matrix.

    Attributes:
        rank: number of singular values above the noise.
        condition: ratio of the largest to the smallest of these singular values.
        is_exact: whether the other singular values are only rounding.
        noise: norm of the other singular values, relative to the norm of the whole matrix.
    """

    rank: int
    condition: float
    is_exact: bool
    noise: float


def spectrum(singular: Tensor, tolerance: float = EXACT, limit: int | None = None) -> Spectrum:
    """Cut singular values (k,), in descending order, at `tolerance` times the first value, or at the widest gap.

    The gap is used if noise fills the spectrum: if more than `limit` values are above the tolerance or, without limit,
    if the cut has no clear gap.

    Args:
        singular: singular values of a weight gradient.
        tolerance: relative size of rounding.
        limit: number of examples, which the rank cannot exceed.
    """
    sizes = (singular / singular[0].clamp_min(LEAST)).clamp_min(LEAST)
    rank = int((sizes > tolerance).sum())
    is_clear = len(sizes) == 1 or (rank < len(sizes) and float(sizes[rank - 1] / sizes[rank]) > _CLEAR)
    is_exact = is_clear if limit is None else rank <= limit
    if not is_exact:
        inner = sizes[: min(limit or len(sizes) // 4, len(sizes) - 1) + 1]
        rank = 1 + int((inner[:-1] / inner[1:]).argmax())
    noise = float(sizes[rank:].norm() / sizes.norm())
    return Spectrum(rank, float(1.0 / sizes[rank - 1]), is_exact, noise)


def span_of(matrix: Tensor, tolerance: float = EXACT, limit: int | None = None) -> tuple[Tensor, Spectrum]:
    """Return orthonormal rows (rank, n) that span the rows of a matrix (m, n) up to its noise, and its `spectrum`."""
    _, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    read = spectrum(singular, tolerance, limit)
    return right[: read.rank], read


def frame_of(rows: Tensor) -> Tensor:
    """Return orthonormal rows that span independent rows (r, n)."""
    return torch.linalg.qr(rows.T).Q.T


def part_outside(vectors: Tensor, frame: Tensor) -> Tensor:
    """Return the parts of vectors (..., n) outside the span of orthonormal rows (r, n)."""
    return vectors - (vectors @ frame.T) @ frame


def share_outside(matrix: Tensor, rows: Tensor) -> float:
    """Return the share of a matrix (m, n), by norm, outside the span of independent rows (r, n)."""
    return float(part_outside(matrix, frame_of(rows)).norm() / matrix.norm().clamp_min(LEAST))


def even_rows(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with every row divided by its norm; zero rows stay.

    Rounding of a gradient is relative to its row. Rows of units that are inactive for examples of large loss show
    examples of tiny loss, which the singular values of the unscaled matrix hide.
    """
    return matrix / matrix.norm(dim=1, keepdim=True).clamp_min(LEAST)


def even_spectrum(singular: Tensor, tolerance: float = EXACT, limit: int | None = None) -> Spectrum:
    """Return the spectrum of a matrix with even rows, in which singular values below `tolerance` may count too.

    If `limit` is known, the next singular value measures rounding: values far above it are signal.

    Args:
        singular: singular values of a weight gradient with even rows, in descending order.
        tolerance: as for `spectrum`.
        limit: as for `spectrum`.
    """
    read = spectrum(singular, tolerance, limit)
    if limit is None or not read.is_exact or limit >= len(singular):
        return read
    rounding = float(singular[limit] / singular[0].clamp_min(LEAST))
    return spectrum(singular, min(tolerance, max(_ABOVE_ROUNDING * rounding, LEAST)), limit)
