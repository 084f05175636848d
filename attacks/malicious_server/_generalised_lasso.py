"""Generalised lasso: least squares with an L1 penalty on differences, for many targets at once, by ADMM."""

from __future__ import annotations

import torch
from torch import Tensor

_PENALTY = 0.1  # penalty of the splitting, relative to the mean of the squared columns


def generalised_lasso(matrix: Tensor, values: Tensor, pairs: Tensor, strength: float, iterations: int) -> Tensor:
    """Return the x of each row that minimise ||A x - y||^2 / 2 + strength sum |x_a - x_b|, shape (G, n).

    Args:
        matrix: A, shape (m, n), float64. No nonzero x that is constant over connected entries is in its null space.
        values: y, shape (G, m).
        pairs: the indices a and b of each difference, shape (2, r).
        strength: weight of the prior, above 0.
        iterations: number of ADMM iterations.
    """
    first, second = pairs
    penalty = _PENALTY * float(matrix.square().sum(0).mean())
    solve = torch.cholesky_inverse(
        torch.linalg.cholesky(matrix.T @ matrix + penalty * _laplacian(pairs, len(matrix.T)))
    )
    sides = values @ matrix
    solution = sides @ solve
    split = solution.new_zeros(len(values), pairs.shape[1])
    dual = split.clone()
    for _ in range(iterations):
        residual = split - dual
        adjoint = torch.zeros_like(solution).index_add_(1, first, residual).index_add_(1, second, residual, alpha=-1)
        solution = (sides + penalty * adjoint) @ solve
        moved = solution[:, first] - solution[:, second] + dual
        split = torch.nn.functional.softshrink(moved, strength / penalty)
        dual = moved - split
    return solution


def _laplacian(pairs: Tensor, entries: int) -> Tensor:
    """Return D^T D of the differences D of pairs, shape (n, n), float64."""
    laplacian = torch.zeros(entries, entries, dtype=torch.float64)
    unit = torch.ones(1, dtype=torch.float64)
    for row, column, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -1), (1, 0, -1)):
        laplacian.index_put_((pairs[row], pairs[column]), sign * unit, accumulate=True)
    return laplacian


def neighbours(shape: tuple[int, ...]) -> Tensor:
    """Return the indices of neighbours in the last two dimensions of flattened images (C, H, W), shape (2, r)."""
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    horizontal = torch.stack((numbers[..., :, 1:].flatten(), numbers[..., :, :-1].flatten()))
    vertical = torch.stack((numbers[..., 1:, :].flatten(), numbers[..., :-1, :].flatten()))
    return torch.cat((horizontal, vertical), 1)
