"""Separate the tokens of a position with hints about each token's dropped features.

An atom is the vector of the column space that is zero at its token's dropped features. If the surely dropped features
do not determine it, the atom is the vector with most zeros among the likely dropped features. Atoms are known up to a
factor. They sum to the gradient of the position, which determines the factors where all missing tokens are surely zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.batch_separation._hidden_units import Hint
from attacks.batch_separation._position_atoms import Position, agreed_factor, null_space
from attacks.batch_separation._sparsest import ZERO, nothing_found, search_vectors, sharpen_vectors
from attacks.core.tolerances import SURELY_KEPT

_NEAR = (0.05, 0.1, 0.2, 0.3)  # of entries of variance 1; attention shifts them by as much
_SEARCHED = (0.1, 0.2)
_STARTS = 256
_BEST = 3
_ROWS_PER_DIMENSION = 1.5  # more than half of the likely rows are zeros
_BEYOND_CHANCE = 8  # zeros beyond the number that any vector of the space can have
_SPARE = 4  # more equations than factors
_SLACK = 10.0  # of the accuracy, for accumulated errors


class _HintedAtom(NamedTuple):
    hint: Hint
    atom: Tensor  # (width,), up to a factor


def separate_hinted(position: Position, known: list[Hint], basis: Tensor, generator: torch.Generator) -> Position:
    """Return the position after removal of the atoms that its hints determine; unchanged if their factors are unknown.

    Args:
        position: the position; it is not changed.
        known: hints about all of its tokens.
        basis: U, orthonormal columns, shape (width, R), float64.
        generator: random source of restarts.
    """
    units = F.normalize(basis, dim=1)
    hints = known if position.hints is None else position.hints
    position = replace(position, atoms=list(position.atoms), open=null_space(units[position.remainder == 0]))
    if len(hints) != position.remaining_tokens:
        return position
    atoms = [_atom(position, hint, basis, units, generator) for hint in hints]
    hinted = [_HintedAtom(hint, atom) for hint, atom in zip(hints, atoms, strict=True) if atom is not None]
    missed = [hint for hint, atom in zip(hints, atoms, strict=True) if atom is None]
    factors = _factors(position, [hinted_atom.atom for hinted_atom in hinted], missed)
    if factors is None:
        _take_agreed(position, hinted, missed, basis)
        return position
    position.hints = missed
    for factor, hinted_atom in zip(factors, hinted, strict=True):
        position.take(factor * hinted_atom.atom)
    return position


def _take_agreed(position: Position, hinted: list[_HintedAtom], missed: list[Hint], basis: Tensor) -> None:
    """Remove the atoms whose entries agree with the rest where all other atoms happen to be zero."""
    position.hints = list(missed)
    for hint, atom in hinted:
        kept = atom.abs() > SURELY_KEPT * basis.norm(dim=1)
        factor = agreed_factor(position, atom, kept)
        if factor is None:
            position.hints.append(hint)
        else:
            position.take(factor * atom)


def _atom(position: Position, hint: Hint, basis: Tensor, units: Tensor, generator: torch.Generator) -> Tensor | None:
    zeros = (position.remainder == 0) | hint.surely
    frame = null_space(units[zeros])
    for vector in _candidates(frame, units, zeros, hint, generator):
        sizes = (units @ vector).abs()
        if int((sizes <= ZERO).sum()) >= basis.shape[1] - 1 + _BEYOND_CHANCE:
            return basis @ vector * (sizes > ZERO)
    return None


def _candidates(
    frame: Tensor, units: Tensor, zeros: Tensor, hint: Hint, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield unit vectors (R,) with many likely zeros, in the null space (dimensions, R) of the sure zeros."""
    dimensions = len(frame)
    if dimensions == 1:
        yield frame[0]
    if dimensions <= 1:
        return
    inner = units @ frame.T
    for nearness in _NEAR:
        rows = F.normalize(inner[(hint.distances < nearness) & ~zeros], dim=1)
        if len(rows) <= dimensions:
            continue
        start = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, :1].T
        yield sharpen_vectors(rows, start)[0] @ frame
        if nearness in _SEARCHED and len(rows) > _ROWS_PER_DIMENSION * dimensions:
            yield from search_vectors(rows, nothing_found(dimensions), _STARTS, generator).vectors[:_BEST] @ frame


def _factors(position: Position, atoms: list[Tensor], missed: list[Hint]) -> list[float] | None:
    """Return the factors of atoms (width,) whose sum is the rest where all missed tokens are zero, or None."""
    if not atoms:
        return None
    is_fitted = torch.ones_like(position.remainder, dtype=torch.bool)
    for hint in missed:
        is_fitted &= hint.surely
    if int(is_fitted.sum()) < len(atoms) + _SPARE:
        return None
    system, residual = torch.stack(atoms, 1)[is_fitted], position.remainder[is_fitted]
    solution = torch.linalg.lstsq(system, residual[:, None], driver="gelsd").solution[:, 0]
    left = float((system @ solution - residual).norm())
    return solution.tolist() if left < _SLACK * position.accuracy * float(residual.norm()) else None
