"""Mean squares of lengths become equal, and directions stay on their line."""

import torch

from defenses.vertical.max_norm import MaxNorm, MaxNormConfig


def test_every_gradient_has_the_largest_mean_square_and_its_own_line() -> None:
    gradients = torch.ones(4000, 2).double()
    gradients[:2000] *= 0.1
    covered = MaxNorm(MaxNormConfig()).perturb_gradients(gradients, torch.zeros(4000), torch.Generator().manual_seed(0))
    assert torch.equal(covered[2000:], gradients[2000:])
    assert torch.allclose(covered[:, 0], covered[:, 1])
    squares = covered[:2000].square().sum(1)  # 2 (0.1 + sqrt(0.99) z)^2: its mean is 2, its deviation below 2.9
    assert abs(float(squares.mean()) - 2.0) < 4 * 2.9 / 2000**0.5
