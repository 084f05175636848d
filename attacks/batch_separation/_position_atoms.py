"""Separate the gradients of a batch's tokens at one position, by zeros that dropout left in their sum.

The sum d = sum over b of delta_b over the batch is the gradient of the position. An entry of d that is zero is zero in
every delta_b. So the delta_b lie in the null space of these rows of U, the column space of the patch weight's gradient:
usually a space of as many dimensions as there are images, for any total number of tokens. The sparsest vectors of that
space are the delta_b. Where the others are zero, delta_b equals d, which gives its factor; once it is subtracted, the
rest has more zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.batch_separation._hidden_units import Hint
from attacks.batch_separation._sparsest import ZERO, nothing_found, search_vectors
from attacks.core.tolerances import EXACT, SURELY_KEPT

_NULL = 1e-4  # relative to the largest singular value; rounding of single precision stays below, random zeros far above
_SLACK = 10.0  # of the accuracy, for accumulated errors
_FEWEST_EQUAL = 4  # three of a few hundred random ratios agree about once in a thousand searches
_STARTS_PER_DIMENSION, _FEWEST_STARTS = 8, 32
_MANY = 2
_ROWS_PER_DIMENSION = 4.5  # fewer rows do not distinguish sparse vectors


@dataclass
class Position:
    """State of the separation at one position.

    Attributes:
        remainder: sum of the gradients that were not separated, rounding set to zero, shape (width,).
        sizes: sum of the absolute values of all subtracted terms, the scale of rounding, shape (width,).
        remaining_tokens: number of tokens that were not separated.
        accuracy: relative error of an atom's entries, which grows with the condition number of the gradient.
        atoms: gradients of single tokens with unknown patches, shape (width,) each.
        open: orthonormal rows whose combinations share the zeros of the rest, shape (dimensions, R).
        place: index of the position.
        hints: hints about dropped features of the remaining tokens; None before they are computed.
    """

    remainder: Tensor
    sizes: Tensor
    remaining_tokens: int
    accuracy: float
    open: Tensor
    atoms: list[Tensor] = field(default_factory=list[Tensor])
    place: int = 0
    hints: list[Hint] | None = None

    @property
    def is_done(self) -> bool:
        """Whether no token with a gradient is left."""
        return not self.remaining_tokens or not bool(self.remainder.any())

    def is_hard(self, rank: int) -> bool:
        """Return whether the zeros of the rest leave many more of R dimensions than tokens."""
        return not self.is_done and rank - int((self.remainder == 0).sum()) > _MANY * self.remaining_tokens

    def take(self, atom: Tensor) -> None:
        """Subtract an atom from the rest and store it."""
        self.atoms.append(atom)
        self.remaining_tokens -= 1
        self.sizes = self.sizes + atom.abs()
        residual = self.remainder - atom
        self.remainder = torch.where(residual.abs() <= self.accuracy * self.sizes, 0.0, residual)


def separate(position: Position, basis: Tensor, restarts: int, generator: torch.Generator) -> Position:
    """Return the position with all distinguishable atoms separated.

    The rounding bound is first assumed to be small: a large bound treats small entries as zeros, a small bound misses
    true zeros.

    Args:
        position: the position; it is not changed.
        basis: U, orthonormal columns, shape (width, R), float64.
        restarts: largest number of random starts of one search.
        generator: random source of the starts.
    """
    units = F.normalize(basis, dim=1)
    tried: list[Position] = []
    for accuracy in dict.fromkeys((min(EXACT, position.accuracy), position.accuracy)):
        attempt = replace(position, accuracy=accuracy, atoms=list(position.atoms))
        while not attempt.is_done:
            attempt.open = null_space(units[attempt.remainder == 0])
            atom = _next(basis, units, attempt, restarts, generator)
            if atom is None:
                break
            attempt.take(atom)
        tried.append(attempt)
        if attempt.is_done:
            break
    best = min(tried, key=lambda candidate: candidate.remaining_tokens)
    return replace(best, accuracy=position.accuracy)


def _next(basis: Tensor, units: Tensor, position: Position, restarts: int, generator: torch.Generator) -> Tensor | None:
    """Return a further atom with its factor, or None."""
    if not len(position.open):
        return None
    if position.remaining_tokens == 1:
        return _last(basis, position)
    fewest = min(restarts, max(_FEWEST_STARTS, _STARTS_PER_DIMENSION * len(position.open)))
    for starts in dict.fromkeys((fewest, restarts)):
        for vector in _sparse(basis, position, starts, generator):
            atom = basis @ vector
            sizes = (units @ vector).abs()
            factor = agreed_factor(position, atom, sizes > SURELY_KEPT)
            if factor is not None:
                return factor * atom * (sizes > ZERO)
    return None


def null_space(rows: Tensor) -> Tensor:
    """Return orthonormal rows, shape (dimensions, R), orthogonal to unit rows (n, R)."""
    if not len(rows):
        return torch.eye(rows.shape[1], dtype=rows.dtype)
    _, singular, right = torch.linalg.svd(rows, full_matrices=True)
    return right[int((singular > _NULL * singular[0]).sum()) :]


def _last(basis: Tensor, position: Position) -> Tensor | None:
    """Return the rest without errors of subtracted atoms; None outside the open space, as for a repeated patch."""
    frame = basis @ position.open.T
    atom = frame @ (frame.T @ position.remainder) * (position.remainder != 0)
    is_inside = float((position.remainder - atom).norm()) < _SLACK * position.accuracy * float(position.sizes.norm())
    if not is_inside:
        return None
    # If nothing was subtracted, the rest holds the rounding of the gradient alone; the basis holds more.
    return atom if position.atoms else position.remainder


def _sparse(basis: Tensor, position: Position, starts: int, generator: torch.Generator) -> Tensor:
    """Return unit vectors (k, R) of the open space whose U q has most zeros, best first."""
    dimensions = len(position.open)
    rows = basis[position.remainder != 0] @ position.open.T
    if dimensions == 1 or len(rows) < _ROWS_PER_DIMENSION * dimensions:
        return position.open[: int(dimensions == 1)]
    return search_vectors(rows, nothing_found(dimensions), starts, generator).vectors @ position.open


def agreed_factor(position: Position, atom: Tensor, kept: Tensor) -> float | None:
    """Return the factor c for which most entries of the rest equal c atom, or None if too few agree.

    They agree where all other atoms of the position are zero.
    """
    are_nonzero = kept & (position.remainder != 0)
    ratios = (position.remainder[are_nonzero] / atom[are_nonzero]).sort().values
    if len(ratios) < _FEWEST_EQUAL:
        return None
    are_equal = (ratios[:, None] - ratios).abs() <= position.accuracy * ratios.abs()
    counts = are_equal.sum(0)
    best = int(counts.argmax())
    return float(ratios[are_equal[:, best]].median()) if int(counts[best]) >= _FEWEST_EQUAL else None
