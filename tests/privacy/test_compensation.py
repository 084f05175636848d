"""Noise taken out by its spectrum."""

import torch

from fedsim.privacy.compensation import compensate
from tests.aggregators.noisy import low_rank, noise


def test_pure_noise_vanishes_and_a_strong_signal_stays() -> None:
    signal = low_rank(3)
    alone = compensate(noise(len(signal), 0.5), 0.5)
    assert float(alone.norm()) < 0.3 * float(noise(len(signal), 0.5).norm())
    noisy = signal + noise(len(signal), 0.5)
    left, before = float(torch.dist(compensate(noisy, 0.5), signal)), float(torch.dist(noisy, signal))
    assert left < 0.4 * before


def test_without_noise_nothing_is_done_and_a_rest_of_the_vector_stays() -> None:
    vector = torch.randn(6007, generator=torch.Generator().manual_seed(1))
    assert compensate(vector, 0.0) is vector
    assert compensate(vector[:0], 1.0).shape == (0,)
    width = int((6007 / 6) ** 0.5)
    rest = 6007 % width
    assert rest
    assert torch.equal(compensate(vector, 1.0)[-rest:], vector[-rest:])


def test_noise_on_a_share_of_the_rows_has_the_spectrum_of_so_many_rows() -> None:
    signal = low_rank(3)
    noisy = signal + noise(len(signal), 0.5) * (torch.arange(len(signal)) < len(signal) // 2)
    left, before = float(torch.dist(compensate(noisy, 0.5, 0.5), signal)), float(torch.dist(noisy, signal))
    assert left < 0.5 * before
