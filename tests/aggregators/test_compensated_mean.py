"""The mean without directions of noise is nearer to that of clean updates."""

from dataclasses import replace

import pytest
import torch

from fedsim.aggregators.compensated_mean import CompensatedMean, CompensatedMeanConfig, compensate
from fedsim.core import registry
from fedsim.core.types import Contribution
from tests.aggregators.noisy import low_rank, noise
from tests.federating import a_round


def test_the_servers_mean_is_nearer_to_that_of_clean_updates() -> None:
    method = registry.get("aggregator", "compensated-mean")
    clean = low_rank(2)
    vectors = [clean + noise_of_client for noise_of_client in (noise(len(clean), 0.4), -noise(len(clean), 0.4).flip(0))]
    given = [Contribution(client, vector, 1) for client, vector in enumerate(vectors)]
    rule = method.make(method.config.model_validate({"scale": 0.4, "noised_share": 1.0}))
    combined = rule.combine(given, replace(a_round(), expected_clients=2.0))
    assert float(torch.dist(combined, clean)) < 0.5 * float(torch.dist(torch.stack(vectors).mean(0), clean))


@pytest.mark.paper_step("compensated-mean", "mean of noisy updates as a matrix")
def test_the_rule_takes_out_the_noise_that_is_left_in_a_mean() -> None:
    """Noise of 0.4 on a quarter of the entries of each of 10 clients leaves 0.4 sqrt(0.25 / 10) on their mean."""
    rule = CompensatedMean(CompensatedMeanConfig(scale=0.4, noised_share=0.25))
    vector = low_rank(3) + noise(600 * 100, 0.4 * (0.25 / 10) ** 0.5)
    combined = rule.combine([Contribution(0, vector, 1)], a_round(len(vector)))
    assert torch.equal(combined, compensate(vector, 0.4 * (0.25 / 10) ** 0.5))
    assert not torch.allclose(combined, compensate(vector, 0.4 / 10**0.5))


@pytest.mark.paper_step("compensated-mean", "directions outside of the noise's spectrum are kept")
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
