"""Solve for encoder outputs e from their nearest keys, P_c^T e = k_c for every codebook c, by least squares."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MOST_ROUNDS = 30
_STARTS = 10


def solve_points(projections: Tensor, targets: Tensor, known: Tensor, origin: Tensor, ridge: float = 0.0) -> Tensor:
    """Return the least-squares outputs, shape (B, m), float64; if underdetermined, the solution nearest to `origin`.

    Args:
        projections: P, shape (m, C, d).
        targets: the keys, shape (B, C, d).
        known: True where a key is known and its equation is used, boolean, shape (B, C).
        origin: centre of the solutions, shape (m,); returned for records without a known key.
        ridge: variance of a target's error divided by the variance of the outputs around `origin`; 0: least squares.
    """
    matrix, origin = projections.double().permute(1, 2, 0), origin.double()
    points = origin.repeat(len(targets), 1)
    for pattern in known.unique(dim=0):
        if not bool(pattern.any()):
            continue
        chosen = (known == pattern).all(1)
        equations = matrix[pattern].flatten(0, 1)
        wanted = targets[chosen][:, pattern].double().flatten(1) - origin @ equations.mT
        points[chosen] += _fit(equations, wanted.mT, ridge).mT
    return points


def _fit(equations: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Return the x that minimises ||A x - b||^2 + ridge ||x||^2, from the smaller of two equivalent systems."""
    if not ridge:
        return torch.linalg.lstsq(equations, wanted, driver="gelsd").solution
    is_tall = len(equations) > equations.shape[1]
    products = equations.mT @ equations if is_tall else equations @ equations.mT
    products.diagonal().add_(ridge)
    if is_tall:
        return torch.linalg.solve(products, equations.mT @ wanted)
    return equations.mT @ torch.linalg.solve(products, wanted)


def coarseness(keys: Tensor) -> float:
    """Return the variance of a head within its cell, divided by the variance of the keys (C, J, d).

    The value is a ridge for `solve_points`. The radius of a cell is half the distance to the nearest other key.
    """
    gaps = torch.cdist(keys, keys)
    gaps.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    spread = float(gaps.min(-1).values.square().mean()) / 4.0 / keys.shape[-1]
    return spread / float(keys.var(1).mean())


def group(projections: Tensor, candidates: Tensor, valid: Tensor, origin: Tensor, generator: torch.Generator) -> Tensor:
    """Assign keys, which several records read in unknown order, to the records with the smallest joint residual.

    Alternates least squares and assignment from several random starts; the smallest residual wins.

    Args:
        projections: P, shape (m, C, d).
        candidates: the keys of Q records for each codebook, shape (C, Q, d).
        valid: True where a candidate exists, boolean, shape (C, Q). Each codebook needs at least 1; with fewer than Q,
            records share candidates.
        origin: centre of the least-squares solutions, shape (m,).
        generator: random source of the starts.

    Returns:
        The index of each record's candidate, shape (Q, C).
    """
    matrix = projections.double().permute(1, 2, 0).flatten(0, 1)
    inverse, constant, keys = torch.linalg.pinv(matrix), matrix @ origin.double(), candidates.double()

    def fitted(chosen: Tensor) -> tuple[Tensor, float]:
        """Return projections of the least-squares outputs, shape (C, Q, d), and the squared residual."""
        taken = keys[torch.arange(len(keys)), chosen]
        heads = constant + (taken.flatten(1) - constant) @ inverse.mT @ matrix.mT
        heads = heads.view_as(taken)
        return heads.transpose(0, 1), float((heads - taken).square().sum())

    ends: list[tuple[float, int, Tensor]] = []
    for start in range(_STARTS):
        chosen = _random(valid, generator)
        for _ in range(_MOST_ROUNDS):
            before, chosen = chosen, _assign(torch.cdist(fitted(chosen)[0], keys), valid)
            if torch.equal(before, chosen):
                break
        ends.append((fitted(chosen)[1], start, chosen))
    return min(ends, key=lambda end: end[:2])[2]


def _random(valid: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.rand(valid.shape, generator=generator).masked_fill(~valid, 2.0).argsort(1)
    places = torch.arange(valid.shape[1]) % valid.sum(1, keepdim=True)
    return order.gather(1, places).mT


def _assign(distances: Tensor, valid: Tensor) -> Tensor:
    """Return each record's candidate (Q, C) from distances (C, Q, Q); one-to-one if all Q candidates are valid."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - takes long to import

    chosen = distances.masked_fill(~valid[:, None], torch.inf).argmin(-1)
    for codebook in valid.all(1).nonzero().flatten().tolist():
        chosen[codebook] = torch.as_tensor(np.asarray(linear_sum_assignment(distances[codebook].square().numpy())[1]))
    return chosen.mT
