"""The space that is left when what was found is taken out."""

import torch

from attacks.batch_separation._position_atoms import null_space


def test_the_null_space_is_orthonormal_complete_and_orthogonal_to_the_rows() -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    repeated = torch.cat([rows, rows[:1]])
    found = null_space(repeated)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64))
    assert float((found @ rows.T).abs().max()) < 1e-12  # rounding of double precision


def test_without_rows_everything_is_left() -> None:
    assert torch.equal(null_space(torch.zeros(0, 4)), torch.eye(4))
