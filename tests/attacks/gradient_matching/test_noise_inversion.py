"""Noise inside the model, searched along with the data."""

import pytest
import torch

from attacks.gradient_matching.noise_inversion import NoiseInversion, NoiseInversionConfig
from fedsim.core import seeding
from fedsim.metrics.image import score_items
from tests.attacks.core.matching.measures import alone
from tests.attacks.defended import attacked
from tests.attacks.solving import attack_named
from tests.federating import watched

ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
MLP = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}
CONVNET = {"name": "convnet", "width": 8, "dropout": 0.0}


@pytest.mark.parametrize("client", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_precode_does_not_stop_who_searches_the_noise(client: int) -> None:
    informed, guess = attacked("noise-inversion", "precode", client=client)
    assert informed > 20
    assert guess.masks is None


@pytest.mark.slow
@pytest.mark.parametrize("client", [0, 1])
def test_precode_stops_who_takes_the_mean_of_the_noise(client: int) -> None:
    informed, _ = attacked("noise-inversion", "precode", client=client)
    expectation, found = attacked("noise-inversion", "precode", client=client, noise="expectation")
    assert informed > expectation + 10, "the deviation of the noise is large"
    assert found.objective > 0.1


@pytest.mark.slow
def test_the_convolutional_bottleneck_gives_way_too() -> None:
    naive, _ = attacked("inverting-gradients", "cvb", model=CONVNET)
    informed, _ = attacked("noise-inversion", "cvb", model=CONVNET)
    assert informed > naive + 4


@pytest.mark.slow
def test_dropout_and_the_bottleneck_are_searched_together() -> None:
    observation, truth, world = watched(
        knows=ALL, model={**MLP, "dropout": 0.25}, defenses=[{"name": "precode", "latent": 32}]
    )
    attack = attack_named("noise-inversion", max_iterations=400, sign="soft", schedule="cosine")
    found = attack(observation, seeding.generator(5, "attack"))
    assert [mask.shape for mask in found.masks] == [site.shape for site in observation.sites]
    assert score_items(found, truth.original_batches[0], world.data.dataset.spec).items[0].values["psnr"] > 20


def test_at_the_truth_the_objective_vanishes_for_the_true_noise_and_penalty() -> None:
    """The simulated client is the real one: the divergence in the loss included, however heavy."""
    observation, truth, _ = watched(
        knows=ALL, model=MLP, defenses=[{"name": "precode", "beta": 1.0}], federation={"batch_size": 2}
    )
    attack = NoiseInversion(NoiseInversionConfig())
    search = attack.plan(alone(observation))
    comparison = attack.comparison([observation], search)
    noise = torch.randn(2, 256, generator=seeding.generator(3, "defense 0 batch", 1, 0, 0))
    batch = truth.batches[0]
    distance = search.distance(
        comparison.gradients(batch.inputs[None], (), batch.labels[None], [0], {"noise": (noise[None],)})
    )
    assert abs(distance.item()) < 1e-5
