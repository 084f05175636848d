"""Factorisation of a batch's first weight gradient, and its solution from a sparse basis of its column space.

In G = D X the columns of D are the examples' output gradients and the rows of X their inputs. A singular value
decomposition gives G = U R with U = D Q for an unknown square Q. The columns of D, found in the span of U, determine X,
then scales, masks and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.batch_separation._first_layer import FirstLayer, row_space_behind, scale, whole_batch
from attacks.batch_separation._sparsest import ZERO, Space, Sparse, entries
from attacks.core.layers import examples_from
from attacks.core.tolerances import SURELY_KEPT
from fedsim.core.types import Observation, Reconstruction

_UNITS_PER_EXAMPLE = 4
LEFT = 1e-2  # share of a row that must remain after examples were subtracted; below, rounding dominates


class Factors(NamedTuple):
    """The remaining part of G as sizes * (basis @ right), without its zero rows.

    Attributes:
        basis: shape (live rows, R), orthonormal columns.
        right: shape (R, columns).
        live: True for nonzero rows of the remaining part, shape (h,).
        residual_shares: share of a row's norm that was not subtracted, shape (live rows,).
        sizes: divisors of the rows, shape (live rows,).
        noise: standard deviation of the errors of the basis, along each column, shape (live rows, R).
    """

    basis: Tensor
    right: Tensor
    live: Tensor
    residual_shares: Tensor
    sizes: Tensor
    noise: Tensor

    @property
    def space(self) -> Space:
        """The span of D's columns, for a search of sparse directions."""
        return Space(self.basis, self.sizes, self.noise)


def factorise(
    gradient: Tensor, residual: Tensor, rank: Callable[[Tensor], int], sizes: Tensor | None = None
) -> Factors:
    """Decompose the remaining part of a gradient.

    Args:
        gradient: G, shape (h, columns).
        residual: G minus the examples that were found, or G itself.
        rank: function from the singular values in descending order to R.
        sizes: divisors of the rows, shape (h,); None: the norm of each row, as suits rounding errors.
    """
    norms = gradient.norm(dim=1)
    live = residual.norm(dim=1) > LEFT * norms
    left = residual[live].norm(dim=1)
    units = left if sizes is None else sizes[live]
    basis, singular, right = torch.linalg.svd(residual[live] / units[:, None], full_matrices=False)
    size = rank(singular)
    error = singular[size:].norm() / max(1, (len(basis) - size) * (right.shape[1] - size)) ** 0.5
    left = left / norms[live]
    noise = error / (left[:, None] * singular[:size])
    return Factors(basis[:, :size], singular[:size, None] * right[:size], live, left, units, noise)


def hopeless(rank: int, units: int, size: int) -> str | None:
    """Return why no search among `units` can separate `size` examples in a gradient of this rank, or None."""
    if rank > size:
        return f"gave up: numerical rank {rank} exceeds the batch size {size}, so the gradient is not exact"
    return too_few_units(rank, units)


def too_few_units(rank: int, units: int) -> str | None:
    """Return why zeros of this number of units cannot separate `rank` examples, or None."""
    if units < _UNITS_PER_EXAMPLE * rank:
        return (
            f"gave up: {units} units cannot separate {rank} examples; at least {_UNITS_PER_EXAMPLE * rank} are needed"
        )
    return None


def separate(
    observation: Observation,
    first: FirstLayer,
    factors: Factors,
    sparse: Sparse,
    iterations: int,
    diagnostics: Mapping[str, float],
) -> Reconstruction:
    """Solve for the inputs with the complete basis, then recover masks and labels.

    Args:
        observation: inputs of the attack.
        first: the first linear layer.
        factors: factors of its gradient.
        sparse: R independent vectors q whose U q are columns of D.
        iterations: number of iterations of the search.
        diagnostics: figures of the search.
    """
    residual = (_residual(factors, sparse), "relative residual of the first gradient, zeros enforced")
    examples = examples_from(inputs_of(observation, first, factors, sparse), first.layer, observation)
    diagnostics = {
        "numerical rank": float(len(factors.right)),
        "condition number": float(torch.linalg.cond(sparse.vectors)),
        "zero share": float(sparse.zero_shares.mean()),
        "residual": residual[0],
        **diagnostics,
    }
    notes = (
        f"layer '{first.layer.name}' sees the pixels",
        f"exact zeros a separated example: {float(sparse.zero_shares.min()):.0%} or more",
    )
    return whole_batch(observation, examples, residual, iterations, notes, diagnostics)


def inputs_of(observation: Observation, first: FirstLayer, factors: Factors, sparse: Sparse) -> Tensor:
    """Return the layer's inputs (R, pixels) for a complete basis, with scale and sign."""
    rows = torch.linalg.solve(sparse.vectors.T, factors.right)
    kept = torch.zeros(len(rows), len(factors.live), dtype=torch.float64)
    kept[:, factors.live] = entries(factors.basis, sparse.vectors).abs().gt(SURELY_KEPT).double()
    row_space = None if first.behind is None else row_space_behind(observation, first.behind, len(rows))
    return scale(observation, first, rows, kept, row_space)[0]


def _residual(factors: Factors, sparse: Sparse) -> float:
    rows = torch.linalg.solve(sparse.vectors.T, factors.right)
    nonzero = entries(factors.basis, sparse.vectors).abs().T > ZERO
    rebuilt = (factors.basis @ sparse.vectors.T * nonzero) @ rows
    return float((rebuilt - factors.basis @ factors.right).norm() / factors.right.norm())
