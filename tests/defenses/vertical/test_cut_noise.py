"""The noise is as long as its setting says."""

import torch

from defenses.vertical.cut_noise import CutNoise, CutNoiseConfig


def test_the_mean_square_of_its_length_is_that_of_the_longest_gradient_times_the_scale() -> None:
    gradients = torch.zeros(2000, 16).double()
    gradients[0, 3] = 2.0
    covered = CutNoise(CutNoiseConfig(scale=0.5)).perturb_gradients(
        gradients, torch.zeros(2000), torch.Generator().manual_seed(0)
    )
    squares = (covered - gradients).square().sum(1)
    assert abs(float(squares.mean()) - 1.0) < 4 * (2 / 16 / 2000) ** 0.5  # four deviations of that mean of chi-squares
