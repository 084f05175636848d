"""The mean without directions of noise is nearer to that of clean updates."""

from dataclasses import replace

import torch

from fedsim.aggregators.compensated_mean import CompensatedMean, CompensatedMeanConfig
from fedsim.core import registry
from fedsim.core.types import Contribution
from fedsim.privacy.compensation import compensate
from tests.aggregators.noisy import low_rank, noise
from tests.federating import a_round


def test_the_servers_mean_is_nearer_to_that_of_clean_updates() -> None:
    method = registry.get("aggregator", "compensated-mean")
    clean = low_rank(2)
    vectors = [clean + noise_of_client for noise_of_client in (noise(len(clean), 0.4), -noise(len(clean), 0.4).flip(0))]
    given = [Contribution(client, vector, 1) for client, vector in enumerate(vectors)]
    rule = method.make(method.config.model_validate({"scale": 0.4, "noised_share": 1.0}))
    combined = rule.combine(given, replace(a_round(), expected=2.0))
    assert float(torch.dist(combined, clean)) < 0.5 * float(torch.dist(torch.stack(vectors).mean(0), clean))


def test_the_rule_takes_out_the_noise_that_is_left_in_a_mean() -> None:
    """Noise of 0.4 on a quarter of the entries of each of 10 clients leaves 0.4 sqrt(0.25 / 10) on their mean."""
    rule = CompensatedMean(CompensatedMeanConfig(scale=0.4, noised_share=0.25))
    vector = low_rank(3) + noise(600 * 100, 0.4 * (0.25 / 10) ** 0.5)
    combined = rule.combine([Contribution(0, vector, 1)], a_round(len(vector)))
    assert torch.equal(combined, compensate(vector, 0.4 * (0.25 / 10) ** 0.5))
    assert not torch.allclose(combined, compensate(vector, 0.4 / 10**0.5))
