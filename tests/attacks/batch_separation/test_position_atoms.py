"""The space that is left when what was found is taken out."""

import torch

from attacks.batch_separation._position_atoms import Position, null_space, separate


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


def test_a_lone_token_keeps_the_precision_of_its_position() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 64, generator=generator, dtype=torch.float64)
    tokens[0] *= torch.rand(64, generator=generator) < 0.5
    # A weight's gradient in single precision sums all tokens, so its columns are less exact than one token's own.
    noise = 1e-7 * torch.randn(64, 6, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(tokens.T + noise).Q
    position = Position(tokens[0], tokens[0].abs(), 1, 1e-5, torch.eye(6, dtype=torch.float64))
    found = separate(position, basis, 64, generator)
    assert found.is_done
    assert torch.equal(found.atoms[0], tokens[0])
