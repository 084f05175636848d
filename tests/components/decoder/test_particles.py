"""Weighted particles: how many count, and what resampling keeps."""

import math

import pytest
import torch

from fedsim.components.decoder._particles import Particle, Population, effective_size, log_mean


def test_the_effective_size_and_weights_behind_resampling() -> None:
    assert effective_size([0.0] * 5) == pytest.approx(5)
    assert effective_size([math.log(own) for own in (1, 2, 3)]) == pytest.approx(36 / 14)
    assert effective_size([-math.inf, 3.0]) == pytest.approx(1)
    assert effective_size([-math.inf] * 2) == 0
    assert log_mean([math.log(1), math.log(3), -math.inf]) == pytest.approx(math.log(4 / 3))
    population = Population(tuple(Particle((token,), math.log(token + 1)) for token in range(3)), -2.0)
    after = population.resample(torch.Generator().manual_seed(0))
    assert after.log_weights == (0.0,) * 3
    assert after.log_evidence == pytest.approx(population.log_evidence) == pytest.approx(-2 + math.log(2))
    counts = torch.zeros(3)
    source = torch.Generator().manual_seed(1)
    for _ in range(300):
        for one in population.resample(source).particles:
            counts[one.tokens[0]] += 1
    assert ((counts / 900 - torch.tensor([1, 2, 3]) / 6).abs() < 0.06).all()  # 4 standard errors of 900 draws


def test_what_has_not_ended_dies_and_what_died_is_no_longer_open() -> None:
    population = Population((Particle((1,), 0.5, is_whole=True), Particle((2,)), Particle((3,), -math.inf)))
    assert [one.is_open for one in population.particles] == [False, True, False]
    assert not population.is_over
    ended = population.drop_unfinished()
    assert ended.is_over
    assert ended.log_weights == (0.5, -math.inf, -math.inf)
    assert ended.log_evidence == pytest.approx(0.5 - math.log(3))
    assert population.with_sample_size().sizes == (pytest.approx((math.exp(0.5) + 1) ** 2 / (math.e + 1)),)
