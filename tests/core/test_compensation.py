"""Noise taken out by its spectrum: by the server for accuracy, by the attacker for the image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.aggregators.compensated_mean import CompensatedMean, CompensatedMeanConfig
from fedsim.core import registry, seeding
from fedsim.core.compensation import compensate, without_noise
from fedsim.core.hooks import Attack
from fedsim.core.types import Contribution, Observation, Truth
from fedsim.metrics.image import score_items
from fedsim.scenario.world import World
from tests.federating import a_round

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")


def low_rank(rank: int, height: int = 600, width: int = 100) -> Tensor:
    numbers = torch.Generator().manual_seed(rank)
    left = torch.randn(height, rank, generator=numbers)
    return (left @ torch.randn(rank, width, generator=numbers)).flatten()


def noise(size: int, scale: float) -> Tensor:
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(9))


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


def test_the_servers_mean_is_nearer_to_that_of_clean_updates() -> None:
    method = registry.get("aggregator", "compensated-mean")
    clean = low_rank(2)
    vectors = [clean + noise_of_client for noise_of_client in (noise(len(clean), 0.4), -noise(len(clean), 0.4).flip(0))]
    given = [Contribution(client, vector, 1) for client, vector in enumerate(vectors)]
    rule = method.make(method.config.model_validate({"scale": 0.4, "noised_share": 1.0}))
    combined = rule.combine(given, replace(a_round(), expected=2.0))
    assert float(torch.dist(combined, clean)) < 0.5 * float(torch.dist(torch.stack(vectors).mean(0), clean))


@pytest.mark.parametrize("client", [0, 1])
def test_a_layers_own_matrix_loses_most_of_its_noise_and_matching_still_finds_the_image(
    watched: Watched, client: int
) -> None:
    model = {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0}
    common: dict[str, Any] = {"client": client, "model": model, "federation": {"batch_size": 1}}
    clean, _, _ = watched(knows=KNOWN, **common)
    defenses = [{"name": "gradient-noise", "scale": 0.05}]
    noisy, truth, world = watched(knows=(*KNOWN, "defenses"), defenses=defenses, **common)
    for name, tensor in clean.update.tensors.items():
        if tensor.ndim > 1:
            arrived = noisy.update.tensors[name]
            left = float(torch.dist(without_noise(arrived, 0.05), tensor))
            assert left < 0.5 * float(torch.dist(arrived, tensor))
    method = registry.get("attack", "compensation")
    settings = {"max_iterations": 300, "sign": "soft", "schedule": "cosine"}
    found: Attack[Any] = method.make(method.config.model_validate(settings))
    guess = found(noisy, seeding.generator(5, "attack"))
    assert score_items(guess, truth.private[0], world.data.dataset.spec).items[0].values["psnr"] > 15


def test_it_says_when_there_is_no_noise_to_take_out(watched: Watched) -> None:
    method = registry.get("attack", "compensation")
    observation, _, _ = watched(knows=(*KNOWN, "defenses"))
    verdict = method.make(method.config()).applicable(observation)
    assert (verdict.holds, verdict.reason) == (False, "no defense says that it adds noise of one scale")


def test_the_rule_takes_out_the_noise_that_is_left_in_a_mean() -> None:
    """Noise of 0.4 on a quarter of the entries of each of 10 clients leaves 0.4 sqrt(0.25 / 10) on their mean."""
    rule = CompensatedMean(CompensatedMeanConfig(scale=0.4, noised_share=0.25))
    vector = low_rank(3) + noise(600 * 100, 0.4 * (0.25 / 10) ** 0.5)
    combined = rule.combine([Contribution(0, vector, 1)], a_round(len(vector)))
    assert torch.equal(combined, compensate(vector, 0.4 * (0.25 / 10) ** 0.5))
    assert not torch.allclose(combined, compensate(vector, 0.4 / 10**0.5))
