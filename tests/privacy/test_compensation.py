"""Noise taken out by its spectrum: by the server for accuracy, by the attacker for the image."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Truth
from fedsim.metrics.image import score_items
from fedsim.privacy.compensation import compensate, without_noise
from fedsim.scenario.world import World
from tests.aggregators.noisy import low_rank, noise

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")


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


@pytest.mark.parametrize("client", [0, pytest.param(1, marks=pytest.mark.slow)])
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
    assert score_items(guess, truth.original_batches[0], world.data.dataset.spec).items[0].values["psnr"] > 15


def test_it_says_when_there_is_no_noise_to_take_out(watched: Watched) -> None:
    method = registry.get("attack", "compensation")
    observation, _, _ = watched(knows=(*KNOWN, "defenses"))
    verdict = method.make(method.config()).applicable(observation)
    assert (verdict.holds, verdict.reason) == (False, "no defense declares noise of a single scale")
