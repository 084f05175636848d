"""Lower bound on the reconstruction error of any estimator for an update, without a search.

With J = du/dx of the sent update at the truth, noise of covariance S on it, and a prior of variance v of each input:

    A = J' S^-1 J        mean squared error of any estimator >= tr((A + 1/v)^-1) / n, to first order

For scoring only. The bound is local and linear, so it is no guarantee: maps with kinks below the noise are harder to
invert. The prior contains only mean and variance of the inputs; an attacker with a better prior, e.g. of natural
images, may achieve a lower error. Derived from the Bayesian Cramer-Rao bound (van Trees 1968); the spectrum of J as a
measure of privacy: arXiv 2512.15460.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 6e-8  # float32 rounding relative to a tensor's root mean square: noise without a defense
MOST_DENSE = 4096  # maximum number of inputs for which the whole matrix A is computed
_SMALLEST = 1e-12  # relative threshold of A's eigenvalues: singular values of J below 1e-6 of the largest
_WEAK = 1e-10  # relative to the largest eigenvalue; below, eigh's rounding is at least a millionth of an eigenvalue
_CHUNK = 64

Products = Callable[[Tensor], Tensor]


class Left(NamedTuple):
    """Remaining uncertainty of an ideal attacker.

    Attributes:
        error: posterior variance of each input entry, shape (n,), in squared input units.
        rank: numerical rank of J, relative 1e-6.
        condition: ratio of the largest to the smallest singular value above the threshold.
        known_entries: effective number of known entries, tr(A (A + 1/v)^-1).
        guess: maps (inputs, prior mean, generator) to a sample of the ideal attacker's guess, shape (n,).
    """

    error: Tensor
    rank: int
    condition: float
    known_entries: float
    guess: Callable[[Tensor, Tensor, torch.Generator], Tensor]


class Estimated(NamedTuple):
    """Interval of the mean remaining error, from random probes, for inputs too large for the matrix A."""

    low: float
    high: float


def rounding_noise(sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the standard deviation of each entry's rounding: a share of its tensor's root mean square."""
    whole = torch.cat([tensor.flatten() for tensor in sent.values()]).square().mean().sqrt()
    noise: dict[str, Tensor] = {}
    for name, tensor in sent.items():
        size = tensor.square().mean().sqrt()
        noise[name] = (ROUNDING * torch.where(size > 0, size, whole)).clamp_min(1e-30).expand(tensor.shape)
    return noise


def products(
    sent: Sequence[Tensor], inputs: Sequence[Tensor], noise: Sequence[Tensor], spread: Sequence[Tensor] = ()
) -> Products:
    """Return the function that multiplies rows (k, n) by A = J' S^-1 J without forming J.

    Args:
        sent: the sent tensors, a function of the inputs, with its graph.
        inputs: leaves; n is their number of entries.
        noise: standard deviation of each sent entry, above 0.
        spread: for each sent tensor, k columns U, shape (k, *shape): S = noise^2 + U U'. Default: no column.
    """
    whitened = _make_whitening(noise, spread)
    weights = [torch.zeros_like(tensor, requires_grad=True) for tensor in sent]
    pulled = torch.autograd.grad(sent, inputs, weights, create_graph=True, materialize_grads=True)
    shapes, sizes = [block.shape for block in inputs], [block.numel() for block in inputs]

    def forward(row: Tensor) -> list[Tensor]:
        parts = [part.view(shape) for part, shape in zip(row.split(sizes), shapes, strict=True)]
        moving = [(pull, part) for pull, part in zip(pulled, parts, strict=True) if pull.requires_grad]
        if not moving:
            return [torch.zeros_like(weight) for weight in weights]
        outputs, vectors = zip(*moving, strict=True)
        return list(torch.autograd.grad(outputs, weights, vectors, retain_graph=True, materialize_grads=True))

    def times(rows: Tensor) -> Tensor:
        results: list[Tensor] = []
        for row in rows:
            pushed = whitened(forward(row))
            vjp = torch.autograd.grad(sent, inputs, pushed, retain_graph=True, materialize_grads=True)
            results.append(torch.cat([derivative.flatten() for derivative in vjp]).detach())
        return torch.stack(results)

    return times


def _make_whitening(noise: Sequence[Tensor], spread: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return the function that multiplies tensors by S^-1.

    With Q R = U / noise, S^-1 is 1 - Q Q' + Q (1 + R R')^-1 Q' between divisions by the noise. Woodbury's formula would
    cancel numerically, because U may be a million times the noise.
    """
    shapes, sizes = [block.shape for block in noise], [block.numel() for block in noise]
    deviation = torch.cat([block.flatten() for block in noise])
    if not spread or not len(spread[0]):
        return lambda parts: [part / s.square() for part, s in zip(parts, noise, strict=True)]
    columns = torch.cat([block.flatten(1) for block in spread], 1) / deviation
    basis, corner = torch.linalg.qr(columns.T)
    inner = torch.linalg.inv(torch.eye(len(corner), dtype=corner.dtype) + corner @ corner.T)

    def times(parts: Sequence[Tensor]) -> list[Tensor]:
        flat = torch.cat([part.flatten() for part in parts]) / deviation
        projected = basis.T @ flat
        orthogonal = flat - basis @ projected
        orthogonal = orthogonal - basis @ (basis.T @ orthogonal)  # again: the division amplifies rounding
        whitened = (orthogonal + basis @ (inner @ projected)) / deviation
        return [piece.view(shape) for piece, shape in zip(whitened.split(sizes), shapes, strict=True)]

    return times


def matrix(times: Products, n: int, chunk: int = _CHUNK) -> Tensor:
    """Return A, shape (n, n), in double precision, because forming A squares the condition number."""
    rows = [times(torch.eye(n, dtype=torch.float64)[start : start + chunk]) for start in range(0, n, chunk)]
    whole = torch.cat(rows)
    return (whole + whole.T) / 2


def restrict_products(times: Products, chosen: Tensor) -> Products:
    """Return the product with the submatrix of A selected by a mask (n,)."""

    def part(rows: Tensor) -> Tensor:
        whole = rows.new_zeros(len(rows), len(chosen))
        whole[:, chosen] = rows
        return times(whole)[:, chosen]

    return part


def _spectrum(matrix: Tensor, spread: Tensor, times: Products | None) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of a positive matrix, spread A spread'; values hidden by rounding are 0.

    A formed matrix contains small eigenvalues only as differences of large entries. A product with A = J' S^-1 J, if
    given, computes J v first, which is as small as the eigenvalue's root; so weak directions are recomputed by it.
    """
    values, vectors = torch.linalg.eigh(matrix)
    if not len(values):
        return values, vectors
    floor = torch.finfo(values.dtype).eps * len(values)
    weak = values < _WEAK * values[-1]
    if times is None or not bool(weak.any()):
        return values.where(values > floor * values[-1], 0.0), vectors
    block = vectors[:, weak]
    rows = block.T @ spread
    inner = times(rows) @ rows.T
    small, turns = torch.linalg.eigh((inner + inner.T) / 2)
    hidden = floor * (values[-1] * small[-1].clamp_min(0.0)).sqrt()
    values = torch.cat([small.where(small > hidden, 0.0), values[~weak]])
    return values, torch.cat([block @ turns, vectors[:, ~weak]], 1)


def compute_uncertainty(information: Tensor, variance: Tensor, times: Products | None = None) -> Left:
    """Return the remaining uncertainty of an ideal attacker.

    Args:
        information: A, shape (n, n).
        variance: prior variance, shape (n,), above 0.
        times: multiplies rows by A; if given, weak directions are computed accurately.
    """
    scale = variance.sqrt()
    seen = information.diagonal() > 0  # entries without influence keep their prior variance, independent of rounding
    scaled = (scale[:, None] * information * scale)[seen][:, seen]
    values, vectors = _spectrum(scaled, torch.diag(scale)[seen], times)
    largest = float(values[-1]) if len(values) else 0.0
    counted = values[values > _SMALLEST * largest]
    remaining = 1 / (1 + values)
    error = variance.clone()
    error[seen] = variance[seen] * (vectors.square() @ remaining)

    def guess(inputs: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
        """Shrink towards the mean, and add the posterior noise."""
        normal = torch.randn(len(values), generator=generator, dtype=values.dtype)
        offset = ((inputs - mean) / scale)[seen]
        moved = values / (1 + values) * (vectors.T @ offset) + values.sqrt() / (1 + values) * normal
        guessed = mean.clone()
        guessed[seen] = guessed[seen] + scale[seen] * (vectors @ moved)
        return guessed

    condition = math.sqrt(largest / float(counted[0])) if len(counted) else math.inf
    return Left(error, len(counted), condition, float((values / (1 + values)).sum()), guess)


def left_to_who_knows(information: Tensor, root: Tensor, times: Products | None = None) -> Left:
    """Return the remaining uncertainty of an ideal attacker that knows the covariance of an example's entries.

    Args:
        information: A, shape (n, n), for n / d concatenated examples.
        root: symmetric square root of the prior covariance of an example, shape (d, d), invertible.
        times: as in `compute_uncertainty`.
    """
    whole = torch.block_diag(*[root] * (len(information) // len(root)))
    values, vectors = _spectrum(whole @ information @ whole, whole, times)
    largest = float(values[-1])
    counted = values[values > _SMALLEST * largest]
    turned = whole @ vectors

    def guess(inputs: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
        """As in `compute_uncertainty`."""
        normal = torch.randn(len(values), generator=generator, dtype=values.dtype)
        offset = vectors.T @ torch.linalg.solve(whole, inputs - mean)
        return mean + turned @ (values / (1 + values) * offset + values.sqrt() / (1 + values) * normal)

    condition = math.sqrt(largest / float(counted[0])) if len(counted) else math.inf
    error = turned.square() @ (1 / (1 + values))
    return Left(error, len(counted), condition, float((values / (1 + values)).sum()), guess)


def root_of(examples: Tensor, ridge: float = 1e-3) -> Tensor:
    """Return the symmetric root of the covariance of examples (N, d), with a ridge relative to the mean variance.

    The ridge prevents directions without variance in these examples from counting as known.
    """
    centred = examples - examples.mean(0)
    covariance = centred.T @ centred / len(examples)
    covariance = covariance + ridge * covariance.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance))
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(1e-15).sqrt()) @ vectors.T


def estimate_error(
    times: Products, variance: Tensor, generator: torch.Generator, *, probes: int = 8, steps: int = 48
) -> Estimated:
    """Return an interval of the mean remaining error, without the matrix A.

    Each probe v gives a lower and an upper bound of v' (A + 1/v)^-1 v by Lanczos: Gauss quadrature is below the value,
    Gauss-Radau with a node at 0 above it. The interval adds two standard errors over the probes.
    """
    scale = variance.sqrt()
    bounds: list[tuple[float, float]] = []
    for _ in range(probes):
        sign = 2.0 * torch.randint(2, variance.shape, generator=generator).double() - 1.0
        bounds.append(_quadrature(lambda row: scale * times((scale * row)[None])[0], scale * sign, steps))
    low, high = torch.tensor(bounds, dtype=torch.float64).T / len(variance)
    spread = 2.0 / math.sqrt(probes)
    margin = (spread * float(low.std()), spread * float(high.std())) if probes > 1 else (0.0, 0.0)
    ceiling = float(variance.mean())
    return Estimated(max(0.0, float(low.mean()) - margin[0]), min(ceiling, float(high.mean()) + margin[1]))


def _quadrature(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[float, float]:
    """Return bounds of start' (B + 1)^-1 start for the matrix B given by `times`."""
    size = float(start.norm())
    basis = [start / size]
    diagonal, off_diagonal = list[float](), list[float]()
    for _ in range(min(steps, len(start))):
        row = times(basis[-1])
        diagonal.append(float(row @ basis[-1]))
        whole = torch.stack(basis)
        row = row - whole.T @ (whole @ row)
        row = row - whole.T @ (whole @ row)  # second reorthogonalisation
        off_diagonal.append(float(row.norm()))
        if off_diagonal[-1] <= 1e-10 * max(diagonal):
            value = size**2 * _corner(diagonal, off_diagonal[:-1])
            return value, value
        basis.append(row / off_diagonal[-1])
    low = _corner(diagonal, off_diagonal[:-1])
    return size**2 * low, size**2 * _corner([*diagonal, _radau(diagonal, off_diagonal)], off_diagonal)


def _tridiagonal(diagonal: Sequence[float], off_diagonal: Sequence[float]) -> Tensor:
    side = torch.tensor(off_diagonal, dtype=torch.float64)
    whole = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    return whole + torch.diag(side, 1) + torch.diag(side, -1) if len(side) else whole


def _corner(diagonal: Sequence[float], off_diagonal: Sequence[float]) -> float:
    """Return the first entry of (T + 1)^-1 of a tridiagonal matrix T."""
    values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off_diagonal))
    return float((vectors[0].square() / (1 + values.clamp_min(0.0))).sum())


def _radau(diagonal: Sequence[float], off_diagonal: Sequence[float]) -> float:
    """Return the last diagonal entry for which a tridiagonal matrix has eigenvalue 0."""
    tail = torch.zeros(len(diagonal), dtype=torch.float64)
    tail[-1] = off_diagonal[-1] ** 2
    return float(torch.linalg.solve(_tridiagonal(diagonal, off_diagonal[:-1]), tail)[-1])
