"""The share of values that were read: by hand, by brute force over resamples, and where a value is rare."""

import itertools

import numpy as np
import pytest
import torch

from fedsim.metrics.attributes import share_read


def measured(right: list[float], truth: list[int], clients: list[int]) -> tuple[float, float | None, float | None]:
    found = share_read(
        torch.tensor(right), torch.tensor(truth), torch.tensor(clients), np.random.default_rng(0), resamples=20_000
    )
    assert found.n == len(truth)
    return found.value, found.low, found.high


def test_each_value_counts_alike_however_rare_it_is() -> None:
    value, low, high = measured([1, 1, 1, 1, 0], [0, 0, 0, 0, 2], [0, 1, 2, 3, 4])
    assert value == 0.5  # always the frequent value: no better than guessing
    assert low is not None
    assert high is not None
    assert low <= 0.5 <= high


def test_the_interval_is_that_of_all_resamples_of_three_clients() -> None:
    right, truth = [1.0, 0.0, 0.5], [0, 1, 0]
    means = []
    for drawn in itertools.product(range(3), repeat=3):
        by_value = {v: [right[i] for i in drawn if truth[i] == v] for v in (0, 1)}
        means.append(np.mean([np.mean(own) for own in by_value.values() if own]))
    value, low, high = measured(right, truth, [4, 7, 9])
    assert value == pytest.approx(0.375)
    bounds = (np.quantile(means, share, method="inverted_cdf") for share in (0.025, 0.975))
    assert (low, high) == tuple(map(float, bounds))


def test_two_clients_have_no_interval_and_no_update_is_an_error() -> None:
    assert measured([1, 0], [0, 1], [0, 1]) == (0.5, None, None)
    with pytest.raises(ValueError, match="at least one update"):
        measured([], [], [])
