"""Rows that hold more are found among zeros and in noise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.core.fired_rows import find_fired_rows, noise_variance, outstanding_rows
from tests.attacks.codebooks.keys import drawn


@given(st.lists(st.integers(0, 39), min_size=1, max_size=12, unique=True), st.integers(0, 1000))
def test_rows_that_hold_more_are_found_among_zeros_and_in_noise(rows: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.zeros(40, 64)
    gradient[rows] = 1.0 + torch.rand(len(rows), 64, generator=generator)
    assert outstanding_rows(gradient).tolist() == sorted(rows)
    noisy = gradient + 0.05 * torch.randn(40, 64, generator=generator)
    assert outstanding_rows(noisy).tolist() == sorted(rows)


def test_the_variance_of_noise_is_read_off_rows_without_signal() -> None:
    noise = 0.3 * drawn(4, 500, 10)
    noise[:, :20] += 5.0
    assert noise_variance(noise) == pytest.approx(0.09, rel=0.1)
    assert noise_variance(noise * (torch.arange(500) > 3)[:, None]) == 0.0


def test_rows_stand_out_of_noise_or_drown_in_it():
    generator = torch.Generator().manual_seed(0)
    truly = torch.zeros(2, 200, dtype=torch.bool)
    truly[0, :5] = truly[1, 10:12] = True
    signal = torch.where(truly[..., None], torch.randn(2, 200, 16, generator=generator), 0.0)
    noise = torch.randn(2, 200, 16, generator=generator)
    assert torch.equal(find_fired_rows(signal), truly)
    weak = find_fired_rows(signal + 0.05 * noise)
    assert bool((weak & truly).sum() == truly.sum())
    assert int((weak & ~truly).sum()) <= 3
    drowned = find_fired_rows(signal + 20.0 * noise)
    assert int(drowned.sum()) <= 6
