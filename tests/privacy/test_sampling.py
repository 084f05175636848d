"""Sizes of batches tell Poisson sampling from what is only called so, and honest samplers are not accused."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2

from fedsim.privacy.sampling import FALSE_ALARMS, SamplingClaim, chance, fewest_sizes, sampling_fault

SETTINGS = [(100, 0.005), (100, 0.02), (12, 0.3), (60, 0.5), (1000, 0.064)]


def honest(records: int, rate: float, batches: int, logs: int) -> NDArray[np.int64]:
    return np.random.default_rng(records).binomial(records, rate, (logs, batches))


def of_passes(records: int, size: int, batches: int) -> list[int]:
    """Return the sizes of batches of shuffled passes, of which the last may be short."""
    one_pass = [min(size, records - begun) for begun in range(0, records, size)]
    return [one_pass[number % len(one_pass)] for number in range(batches)]


@pytest.mark.parametrize(("records", "rate"), SETTINGS)
def test_true_poisson_sampling_is_called_wrong_no_more_often_than_is_stated(records: int, rate: float) -> None:
    drawn = honest(records, rate, 40, 400)
    chances = np.array([chance(SamplingClaim(sizes.tolist(), records, rate)) for sizes in drawn])
    assert chances.min() > FALSE_ALARMS  # 2,000 logs in all, each with an alarm of 1e-6 at most
    # The bound holds at every level: three deviations of a share among 400 logs are allowed above it.
    for level in (0.3, 0.1, 0.01):
        assert (chances <= level).mean() <= level + 3 * (level * (1 - level) / 400) ** 0.5


def test_a_chi_squared_bound_would_accuse_honest_batches_of_few_records() -> None:
    records, rate, batches = 100, 0.005, 40
    squares = np.square(honest(records, rate, batches, 20_000) - records * rate).sum(1)
    stated = chi2.sf(squares / (records * rate * (1 - rate)), batches)
    assert (stated < 1e-5).mean() > 1e-3  # a hundred times as often as is stated


@pytest.mark.parametrize(
    ("records", "size", "batches"),
    [(96, 8, 50), (100, 8, 50), (1000, 64, 50), (10_000, 300, 100), (12, 4, 40), (1_000_000, 1000, 20)],
)
def test_shuffled_passes_are_noticed_and_so_where_the_last_batch_is_short(
    records: int, size: int, batches: int
) -> None:
    claim = SamplingClaim(of_passes(records, size, batches), records, size / records)
    assert "not drawn by Poisson sampling" in sampling_fault(claim)


def test_the_short_batch_of_a_pass_can_hide_the_variance_that_is_missing() -> None:
    claim = SamplingClaim(of_passes(300, 32, 60), 300, 32 / 300)
    assert 0.4 < claim.spread < 1.6
    assert sampling_fault(claim)


def test_another_rate_than_the_stated_one_is_noticed() -> None:
    assert sampling_fault(SamplingClaim(honest(1000, 0.02, 50, 1)[0].tolist(), 1000, 0.01))


def test_sizes_that_vary_too_little_are_noticed_without_a_size_that_returns() -> None:
    sizes = np.random.default_rng(0).integers(480, 520, 100)  # deviation 12 where 21.9 are due
    assert sampling_fault(SamplingClaim(sizes.tolist(), 12_000, 1 / 24))


@pytest.mark.parametrize(("records", "rate"), SETTINGS)
def test_as_many_sizes_as_are_needed_show_that_all_are_equal(records: int, rate: float) -> None:
    needed = fewest_sizes(records, rate)
    assert sampling_fault(SamplingClaim([round(records * rate)] * needed, records, rate))


def test_opacus_draws_as_it_says() -> None:
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler

    source = torch.Generator().manual_seed(3)
    sampler = UniformWithReplacementSampler(num_samples=400, sample_rate=0.02, generator=source, steps=60)
    assert sampling_fault(SamplingClaim([len(batch) for batch in sampler], 400, 0.02)) == ""
