"""All tokens of a batch, from the gradients of a patch projection and of a learned position embedding.

The column space U of the projection's gradient holds the tokens' gradients, the atoms. They are separated position by
position. If some are missing, the patches of the others are known up to rows that the missing ones leave open; the
layer that reads the tokens confirms the right combination. Patches that are known are subtracted, so that fewer tokens
are left, and the zeros of each position tell more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.batch_separation._position_atoms import Position, null_space
from attacks.batch_separation._token_reader import Reader, confirmed_row
from attacks.core.tolerances import EXACT

_WELL_CONDITIONED = 100.0  # rounding of single precision, this many times enlarged, stays below EXACT
_EXPLAINED = 1e-4  # share of the gradient that may be left: a token that is missing leaves more
_MOST_FAILURES = 4  # positions in a row: the next ones have still fewer zeros
_INDEPENDENT = 1e-3  # least singular value of unit vectors that are told apart


class Tokens(NamedTuple):
    """What was separated; a patch that occurs several times in the batch has one atom.

    Attributes:
        atoms: gradients, shape (K, width).
        rows: patches, with the 1 of the bias if there is one, shape (K, columns).
        atom_of: the atom of each token, shape (k,).
        positions: of each token, shape (k,).
    """

    atoms: Tensor
    rows: Tensor
    atom_of: Tensor
    positions: Tensor


class Separated(NamedTuple):
    """Tokens whose patches are known, and how the search went.

    Attributes:
        stand_out: number of atoms that were found, also those whose patches stay open.
        confirmed: number of patches that the reader completed.
        spaces: number R of tokens less that of the zeros, at each position.
    """

    tokens: Tokens
    stand_out: int
    confirmed: int
    spaces: list[int]


class _Pass(NamedTuple):
    """What one pass over all positions solved: atoms (k, width), rows (k, columns), and the tokens that they are."""

    atoms: Tensor
    rows: Tensor
    atom_of: list[int]
    positions: list[int]
    confirmed: int = 0


def separate_tokens(
    gradient: Tensor,
    totals: Tensor,
    rank: int,
    size: int,
    reader: Reader | None,
    separate: Callable[[Position, Tensor], None],
) -> Separated:
    """Separate as many tokens as stand out.

    Args:
        gradient: of the projection's weight, with that of its bias as the last column, shape (width, columns), float64.
        totals: gradients of the positions, shape (N, width), float64.
        rank: number R of different patches in the gradient.
        size: number of images.
        reader: the layer behind the embedding, if it can be used.
        separate: takes atoms out of a position, given the column space (width, R).
    """
    singular = torch.linalg.svdvals(gradient)
    accuracy = EXACT * float((singular[0] / singular[rank - 1] / _WELL_CONDITIONED).clamp(1.0, _WELL_CONDITIONED))
    positions = [Position(total.clone(), total.abs(), size, accuracy, totals[:0]) for total in totals]
    passes: list[_Pass] = []
    rest, missing = gradient, rank
    while missing:
        left, singular, right = torch.linalg.svd(rest, full_matrices=False)
        basis, factors = left[:, :missing], singular[:missing, None] * right[:missing]
        _separate_easiest_first(positions, basis, separate)
        solved = _solve(positions, basis, factors, reader)
        if solved is None:
            break
        passes.append(solved)
        rest = rest - solved.atoms.T @ solved.rows
        missing -= len(solved.rows)
    stand_out = rank - missing + sum(len(one.atoms) for one in positions)
    spaces = [rank - int((total == 0).sum()) for total in totals]
    tokens = _joined(passes, totals.new_empty(0, totals.shape[1]), gradient[:0])
    tokens = _shared(tokens, [place for place, one in enumerate(positions) if one.is_done], size)
    return Separated(tokens, stand_out, sum(one.confirmed for one in passes), spaces)


def _separate_easiest_first(
    positions: list[Position], basis: Tensor, separate: Callable[[Position, Tensor], None]
) -> None:
    """Separate positions in the order of their zeros, until one after the other yields nothing.

    A single atom may open all others, so a pass need not try what is hard.
    """
    for position in positions:
        position.open = torch.eye(basis.shape[1], dtype=basis.dtype)
    failures = 0
    for position in sorted(positions, key=lambda one: -int((one.rest == 0).sum())):
        if position.is_done:
            continue
        before = position.left
        separate(position, basis)
        failures = 0 if position.left < before else failures + 1
        if failures == _MOST_FAILURES:
            return


def _joined(passes: list[_Pass], no_atoms: Tensor, no_rows: Tensor) -> Tokens:
    atoms = torch.cat([no_atoms, *(one.atoms for one in passes)])
    rows = torch.cat([no_rows, *(one.rows for one in passes)])
    before = [sum(len(one.rows) for one in passes[:number]) for number in range(len(passes))]
    index = [first + own for first, one in zip(before, passes, strict=True) for own in one.atom_of]
    places = [place for one in passes for place in one.positions]
    return Tokens(atoms, rows, torch.tensor(index).long(), torch.tensor(places).long())


def _shared(tokens: Tokens, done: list[int], size: int) -> Tokens:
    """Give a patch that explains its whole position to all images: they have it in common."""
    counts = tokens.positions.bincount(minlength=max(done, default=0) + 1)
    alone = [place for place in done if int(counts[place]) == 1 < size]
    chosen = torch.isin(tokens.positions, torch.tensor(alone).long())
    more_atoms, more_places = (own[chosen].repeat(size - 1) for own in (tokens.atom_of, tokens.positions))
    return tokens._replace(
        atom_of=torch.cat([tokens.atom_of, more_atoms]), positions=torch.cat([tokens.positions, more_places])
    )


def _solve(positions: list[Position], basis: Tensor, right: Tensor, reader: Reader | None) -> _Pass | None:
    """Solve U right = atoms^T rows for the patches, all at once or one by one; None where none can be solved.

    If one atom is missing, it is that of a patch that occurs several times: the sum of all rests.
    """
    places = [place for place, one in enumerate(positions) for _ in one.atoms]
    atoms = torch.stack([atom for one in positions for atom in one.atoms]) if places else basis.T[:0]
    short = [one for one in positions if not one.is_done]
    if short and len(atoms) == len(right) - 1:
        return _with_repeated(positions, atoms, places, basis, right)
    if not places:
        return None
    unknown = torch.cat([right.new_empty(0, len(right)), *(one.open for one in short)])
    rows = _rows(atoms @ basis, right, unknown)
    if rows is None:
        return None if reader is None else _confirmed(positions, atoms, places, basis, right, reader)
    for one in positions:
        one.atoms.clear()
    return _Pass(atoms, rows, list(range(len(places))), places)


def _with_repeated(
    positions: list[Position], atoms: Tensor, places: list[int], basis: Tensor, right: Tensor
) -> _Pass | None:
    rests = torch.stack([one.rest for one in positions if not one.is_done])
    atoms = torch.cat([atoms, rests.sum(0)[None]])
    rows = _rows(atoms @ basis, right, right.new_empty(0, len(right)))
    if rows is None:
        return None
    repeated = [place for place, one in enumerate(positions) if not one.is_done for _ in range(one.left)]
    for one in positions:
        one.atoms.clear()
    index = [*range(len(places)), *(len(places) for _ in repeated)]
    return _Pass(atoms, rows, index, [*places, *repeated])


def _rows(coordinates: Tensor, right: Tensor, unknown: Tensor) -> Tensor | None:
    """Solve right (R, columns) = coordinates (k, R)^T rows + any combination of `unknown` (u, R), or return None."""
    frame = null_space(unknown) if len(unknown) else torch.eye(len(right), dtype=right.dtype)
    inner = coordinates @ frame.T
    if inner.shape[0] > inner.shape[1]:
        return None
    if float(torch.linalg.svdvals(F.normalize(inner, dim=1))[-1]) < _INDEPENDENT:
        return None
    # the default driver gives other last bits from call to call
    rows = torch.linalg.lstsq(inner.T, frame @ right, driver="gels").solution
    rest = inner.T @ rows - frame @ right
    return rows if float(rest.norm()) < _EXPLAINED * float(right.norm()) else None


def _confirmed(
    positions: list[Position], atoms: Tensor, places: list[int], basis: Tensor, right: Tensor, reader: Reader
) -> _Pass | None:
    """Complete the patches of the atoms one by one, by the layer that reads the tokens."""
    coordinates = atoms @ basis
    dual = torch.linalg.pinv(coordinates).T @ right  # row k belongs to atom k, up to the open rows
    open_rows = torch.linalg.svd(coordinates).Vh[len(coordinates) :] @ right
    open_rows = F.normalize(open_rows, dim=1)
    rows = [
        confirmed_row(reader, row, open_rows, (atom != 0).double(), place)
        for row, atom, place in zip(dual, atoms, places, strict=True)
    ]
    chosen = [number for number, row in enumerate(rows) if row is not None]
    if not chosen:
        return None
    pending = iter(rows)
    for one in positions:
        one.atoms = [atom for atom in one.atoms if next(pending) is None]
    solved = torch.stack([row for row in rows if row is not None])
    return _Pass(atoms[chosen], solved, list(range(len(chosen))), [places[number] for number in chosen], len(chosen))
