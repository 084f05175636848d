"""Separate all tokens of a batch, from the gradients of a patch projection and of a learned position embedding.

The column space U of the projection's gradient holds the tokens' gradients, the atoms. They are separated position by
position. If some are missing, the patches of the others are known up to open rows, of the missing tokens; the layer
that reads the tokens confirms the right combination. Known patches are projected away, so that fewer tokens are left,
and the zeros of each position determine more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.batch_separation._position_atoms import Position, null_space
from attacks.batch_separation._token_reader import TokenReader, confirmed_row
from attacks.core.spans import frame_of, part_outside
from attacks.core.tolerances import EXACT

_WELL_CONDITIONED = 100.0  # rounding of single precision, multiplied by this, stays below EXACT
_EXPLAINED = 1e-4  # share of the gradient that may be unexplained: a missing token leaves a larger share
_MOST_FAILURES = 8  # positions in a row: the next positions have still fewer zeros
_INDEPENDENT = 1e-3  # least distance of distinguishable unit vectors


class Tokens(NamedTuple):
    """Separated tokens; a patch that occurs several times in the batch has a single atom.

    Attributes:
        atoms: gradients, shape (K, width).
        rows: patches, with the bias's input of 1 if the bias is shared, shape (K, columns).
        atom_of: index of each token's atom, shape (k,).
        positions: position of each token, shape (k,).
    """

    atoms: Tensor
    rows: Tensor
    atom_of: Tensor
    positions: Tensor


class Separated(NamedTuple):
    """Tokens with known patches, and figures of the search.

    Attributes:
        stand_out: number of separated atoms, including atoms without a known patch.
        confirmed_patches: number of patches that the reader completed.
        spaces: number R of tokens minus the number of zeros, at each position.
    """

    tokens: Tokens
    stand_out: int
    confirmed_patches: int
    spaces: list[int]


class _Factors(NamedTuple):
    """The gradient G as basis @ right, shapes (width, R) and (R, columns)."""

    basis: Tensor
    right: Tensor


class _Pass(NamedTuple):
    """Result of one pass over all positions: atoms (k, width), rows (k, columns), and their tokens."""

    atoms: Tensor
    rows: Tensor
    atom_of: list[int]
    positions: list[int]
    confirmed_patches: int = 0


def separate_tokens(
    gradient: Tensor,
    totals: Tensor,
    rank: int,
    size: int,
    reader: TokenReader | None,
    separate: Callable[[Position, Tensor], Position],
) -> Separated:
    """Separate all distinguishable tokens.

    Args:
        gradient: gradient of the projection's weight, with the bias's as the last column, shape (width, columns),
            float64.
        totals: gradients of the positions, shape (N, width), float64.
        rank: number R of different patches in the gradient.
        size: number of images.
        reader: the layer after the embedding, if it can be used.
        separate: returns a position after separation of atoms, given the column space (width, R).
    """
    left, singular, right = torch.linalg.svd(gradient, full_matrices=False)
    factors = _Factors(left[:, :rank], singular[:rank, None] * right[:rank])
    accuracy = EXACT * float((singular[0] / singular[rank - 1] / _WELL_CONDITIONED).clamp(1.0, _WELL_CONDITIONED))
    positions = [
        Position(total.clone(), total.abs(), size, accuracy, totals[:0], place=place)
        for place, total in enumerate(totals)
    ]
    passes: list[_Pass] = []
    missing = rank
    while missing:
        known = _join_passes(passes, totals.new_empty(0, totals.shape[1]), gradient[:0])
        basis = _column_space(gradient, known.rows, missing)
        _separate_easiest_first(positions, basis, separate)
        solved = _solve(positions, known, factors, basis, reader)
        if solved is None:
            break
        passes.append(solved)
        missing -= len(solved.rows)
    stand_out = rank - missing + sum(len(position.atoms) for position in positions)
    spaces = [rank - int((total == 0).sum()) for total in totals]
    tokens = _join_passes(passes, totals.new_empty(0, totals.shape[1]), gradient[:0])
    tokens = _share_patches(tokens, [place for place, position in enumerate(positions) if position.is_done], size)
    return Separated(tokens, stand_out, sum(position.confirmed_patches for position in passes), spaces)


def _column_space(gradient: Tensor, known: Tensor, missing: int) -> Tensor:
    """Return the span of the tokens whose patches are not among the known rows (k, columns): shape (width, missing).

    Patches are projected away instead of subtracting atoms, since an error of a large atom would exceed a small atom.
    """
    return torch.linalg.svd(part_outside(gradient, frame_of(known)), full_matrices=False).U[:, :missing]


def _separate_easiest_first(
    positions: list[Position], basis: Tensor, separate: Callable[[Position, Tensor], Position]
) -> None:
    """Separate positions in the order of their zeros, until several in a row yield nothing.

    A single atom may simplify all other positions, so a pass need not try hard positions.
    """
    for position in positions:
        position.open = torch.eye(basis.shape[1], dtype=basis.dtype)
    failures = 0
    for place in sorted(range(len(positions)), key=lambda number: -int((positions[number].remainder == 0).sum())):
        before = positions[place]
        if before.is_done:
            continue
        positions[place] = separate(before, basis)
        failures = 0 if positions[place].remaining_tokens < before.remaining_tokens else failures + 1
        if failures == _MOST_FAILURES:
            return


def _join_passes(passes: list[_Pass], no_atoms: Tensor, no_rows: Tensor) -> Tokens:
    atoms = torch.cat([no_atoms, *(solution.atoms for solution in passes)])
    rows = torch.cat([no_rows, *(solution.rows for solution in passes)])
    before = [sum(len(solution.rows) for solution in passes[:number]) for number in range(len(passes))]
    index = [first + atom for first, solution in zip(before, passes, strict=True) for atom in solution.atom_of]
    places = [place for solution in passes for place in solution.positions]
    return Tokens(atoms, rows, torch.tensor(index).long(), torch.tensor(places).long())


def _share_patches(tokens: Tokens, done: list[int], size: int) -> Tokens:
    """Assign a patch that explains its whole position to all images, which then share it."""
    counts = tokens.positions.bincount(minlength=max(done, default=0) + 1)
    single_places = [place for place in done if int(counts[place]) == 1 < size]
    chosen = torch.isin(tokens.positions, torch.tensor(single_places).long())
    more_atoms, more_places = (column[chosen].repeat(size - 1) for column in (tokens.atom_of, tokens.positions))
    return tokens._replace(
        atom_of=torch.cat([tokens.atom_of, more_atoms]), positions=torch.cat([tokens.positions, more_places])
    )


def _solve(
    positions: list[Position], known: Tokens, factors: _Factors, basis: Tensor, reader: TokenReader | None
) -> _Pass | None:
    """Solve for the patches of new atoms, jointly or one by one; None if none can be solved.

    A single missing atom belongs to a patch that occurs several times: it is the sum of all rests.
    """
    places = [place for place, unsolved in enumerate(positions) for _ in unsolved.atoms]
    atoms = torch.stack([atom for position in positions for atom in position.atoms]) if places else known.atoms[:0]
    short = [position for position in positions if not position.is_done]
    if short and len(known.atoms) + len(atoms) == len(factors.right) - 1:
        repeated = _with_repeated(positions, atoms, places, known, factors)
        if repeated is not None:
            return repeated
    if not places:
        return None
    unknown = torch.cat([basis.new_empty(0, basis.shape[1]), *(unsolved.open for unsolved in short)])
    rows = _rows(torch.cat([known.atoms, atoms]), factors, unknown @ basis.T)
    if rows is None:
        return None if reader is None else _complete_patches(positions, atoms, places, known, factors, reader)
    for unsolved in positions:
        unsolved.atoms.clear()
    return _Pass(atoms, rows[len(known.atoms) :], list(range(len(places))), places)


def _with_repeated(
    positions: list[Position], atoms: Tensor, places: list[int], known: Tokens, factors: _Factors
) -> _Pass | None:
    rests = torch.stack([position.remainder for position in positions if not position.is_done])
    atoms = torch.cat([atoms, rests.sum(0)[None]])
    rows = _rows(torch.cat([known.atoms, atoms]), factors, atoms[:0])
    if rows is None:
        return None
    repeated = [
        place
        for place, candidate in enumerate(positions)
        if not candidate.is_done
        for _ in range(candidate.remaining_tokens)
    ]
    for candidate in positions:
        candidate.atoms.clear()
    index = [*range(len(places)), *(len(places) for _ in repeated)]
    return _Pass(atoms, rows[len(known.atoms) :], index, [*places, *repeated])


def _rows(atoms: Tensor, factors: _Factors, unknown: Tensor) -> Tensor | None:
    """Solve G = atoms^T rows + anything in the span of `unknown` (u, width), or return None; atoms (k, width)."""
    frame = null_space(unknown @ factors.basis) if len(unknown) else torch.eye(len(factors.right)).to(atoms)
    inner = atoms @ factors.basis @ frame.T
    distances = (atoms - atoms @ factors.basis @ factors.basis.T).norm(dim=1)
    if inner.shape[0] > inner.shape[1] or bool((distances > _INDEPENDENT * atoms.norm(dim=1)).any()):
        return None
    if float(torch.linalg.svdvals(F.normalize(inner, dim=1))[-1]) < _INDEPENDENT:
        return None
    right = frame @ factors.right
    # the default driver gives other last bits from call to call
    rows = torch.linalg.lstsq(inner.T, right, driver="gels").solution
    residual = inner.T @ rows - right
    return rows if float(residual.norm()) < _EXPLAINED * float(factors.right.norm()) else None


def _complete_patches(
    positions: list[Position],
    atoms: Tensor,
    places: list[int],
    known: Tokens,
    factors: _Factors,
    reader: TokenReader,
) -> _Pass | None:
    """Complete the patches of the atoms one by one, by the layer that reads the tokens.

    Known patches count as open rows: an error of a large atom adds a multiple of its patch to the patch of a small
    atom.
    """
    coordinates = torch.cat([known.atoms, atoms]) @ factors.basis
    dual = torch.linalg.pinv(F.normalize(coordinates, dim=1)).T @ factors.right
    dual = dual / coordinates.norm(dim=1, keepdim=True)  # row k belongs to atom k, up to the open rows
    open_rows = torch.linalg.svd(coordinates).Vh[len(coordinates) :] @ factors.right
    open_rows = F.normalize(torch.cat([open_rows, known.rows]), dim=1)
    rows = [
        confirmed_row(reader, row, open_rows, (atom != 0).double(), place)
        for row, atom, place in zip(dual[len(known.atoms) :], atoms, places, strict=True)
    ]
    chosen = [number for number, row in enumerate(rows) if row is not None]
    if not chosen:
        return None
    pending = iter(rows)
    for position in positions:
        position.atoms = [atom for atom in position.atoms if next(pending) is None]
    solved = torch.stack([row for row in rows if row is not None])
    return _Pass(atoms[chosen], solved, list(range(len(chosen))), [places[number] for number in chosen], len(chosen))
