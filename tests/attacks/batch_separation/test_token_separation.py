"""What the tokens span whose patches are not known yet."""

import torch

from attacks.batch_separation._token_separation import _column_space


def test_known_patches_are_projected_away_and_the_rest_spans_the_unknown_gradients() -> None:
    source = torch.Generator().manual_seed(0)
    atoms, rows = (torch.randn(3, size, generator=source, dtype=torch.float64) for size in (10, 6))
    found = _column_space(atoms.T @ rows, rows[:1], 2)
    assert found.shape == (10, 2)
    rest = atoms[1:].T - found @ (found.T @ atoms[1:].T)
    assert float(rest.norm()) < 1e-10  # rounding of double precision
    assert float((atoms[0] - found @ (found.T @ atoms[0])).norm()) > 0.1 * float(atoms[0].norm())
