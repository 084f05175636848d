"""Hints single the atoms of a position out of a space that its own zeros leave far too large."""

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.batch_separation._hidden_units import Hint
from attacks.batch_separation._hinted_atoms import separate_hinted
from attacks.batch_separation._position_atoms import Position

WIDTH, PLACES, IMAGES = 128, 8, 4


def made() -> tuple[Tensor, Tensor, list[Hint]]:
    """Return atoms (positions, images, width) with half of their entries zero, their space, and hints of position 0."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(PLACES, IMAGES, WIDTH, generator=generator, dtype=torch.float64)
    atoms *= torch.rand(atoms.shape, generator=generator) < 0.5
    basis = torch.linalg.qr(atoms.flatten(0, 1).T).Q
    also = torch.rand((IMAGES, WIDTH), generator=generator) < 0.5
    hints = [
        Hint((atom == 0) & own, torch.where(atom == 0, 0.02 + 0.5 * ~own * torch.rand(WIDTH, generator=generator), 1.0))
        for atom, own in zip(atoms[0], also, strict=True)
    ]
    return atoms, basis, hints


def position(atoms: Tensor, hints: list[Hint] | None = None) -> Position:
    total = atoms[0].sum(0)
    return Position(total.clone(), total.abs(), IMAGES, 1e-6, total.new_empty(0, IMAGES * PLACES), hints=hints)


def test_all_atoms_are_taken_with_their_factors_and_the_position_stays_as_it_was() -> None:
    atoms, basis, hints = made()
    before = position(atoms)
    assert before.is_hard(basis.shape[1])
    found = separate_hinted(before, hints, basis, torch.Generator().manual_seed(0))
    assert before.remaining_tokens == IMAGES
    assert not before.atoms
    assert found.remaining_tokens == 0
    assert found.is_done
    errors = torch.cdist(atoms[0], torch.stack(found.atoms)).amin(1) / atoms[0].norm(dim=1)
    assert float(errors.max()) < 1e-8


def test_a_wrong_hint_costs_its_own_atom_alone() -> None:
    atoms, basis, hints = made()
    wrong = Hint(atoms[0, 0] != 0, F.normalize(torch.ones(WIDTH), dim=0))
    found = separate_hinted(position(atoms), [wrong, *hints[1:]], basis, torch.Generator().manual_seed(0))
    taken = torch.stack(found.atoms) if found.atoms else atoms[0, :0]
    errors = torch.cdist(taken, atoms[0]).amin(1)
    assert len(taken) == IMAGES - 1
    assert float(errors.max()) < 1e-8 * float(atoms.norm())


def test_without_a_hint_for_every_token_nothing_is_taken() -> None:
    atoms, basis, hints = made()
    found = separate_hinted(position(atoms, hints[1:]), hints, basis, torch.Generator().manual_seed(0))
    assert found.remaining_tokens == IMAGES
    assert not found.atoms
