"""Noise drawn anew for the same batch: what is left of it in the mean of several rounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.combined.round_averaging import RoundAveraging, RoundAveragingConfig, average
from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Observation, Tensors, Truth, WireEntry
from fedsim.core.types.effects import AddedNoise
from fedsim.federation.client import local_training
from fedsim.metrics.image import score_items
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.federating import scenario

ROUNDS, SCALE = 16, 0.05


@pytest.fixture
def noisy() -> Callable[..., tuple[Observation, Truth, World]]:
    """The last of the rounds in which a client with a single digit sent its gradient with fresh noise."""

    def build(weights: Callable[[Tensors, int], Tensors] = lambda own, _: own) -> tuple[Observation, Truth, World]:
        world = worlds.build(
            scenario(
                model={"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0},
                partition={"scheme": "resampled", "examples_per_client": 1},
                federation={"rounds": ROUNDS},
                defenses=[{"name": "gradient-noise", "scale": SCALE}],
            )
        )
        seen = []
        for number in range(1, ROUNDS + 1):
            received = weights(world.models.first_weights, number)
            update, truth = local_training(world, received, number, 0)
            seen.append((WireEntry(number, 0, received, update), truth))
        knows = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses", "earlier-rounds")
        return (
            observe(Victim(world, *seen[-1]), knows, [Victim(world, *before) for before in seen[:-1]]),
            seen[-1][1],
            world,
        )

    return build


Noisy = Callable[..., tuple[Observation, Truth, World]]


def test_the_noise_of_the_mean_is_smaller_by_the_root_of_the_rounds(noisy: Noisy) -> None:
    observation, _, _ = noisy()
    mean, rounds = average(observation, 0.01)
    assert rounds == ROUNDS
    raw = observation.update.tensors
    singles = torch.cat([one.update.tensors[n].flatten() for one in observation.earlier_observations for n in raw])
    left = torch.cat([mean.update.tensors[n].flatten() for n in raw]) - singles.view(ROUNDS - 1, -1).mean(0)
    entries = left.numel()
    # The mean of 16 minus that of the first 15 of them has variance s^2 (1/15 - 1/16).
    expected = SCALE * (1 / (ROUNDS - 1) - 1 / ROUNDS) ** 0.5
    assert float(left.std()) == pytest.approx(expected, rel=4 / (2 * entries) ** 0.5)
    assert mean.effects(AddedNoise)[0].scale == pytest.approx(SCALE / 4)
    assert mean.earlier_observations == ()


def test_an_attack_on_the_mean_sees_more(noisy: Noisy) -> None:
    observation, truth, world = noisy()
    settings = {"attack": "closed-form-linear", "options": {}}
    attack = RoundAveraging(RoundAveragingConfig.model_validate(settings))
    over = attack(observation, seeding.generator(1, "attack"))
    alone = attack(Observation(**{**vars(observation), "earlier_observations": ()}), seeding.generator(1, "attack"))
    scores = [
        score_items(found, truth.original_batches[0], world.data.dataset.spec).items[0].values["psnr"]
        for found in (alone, over)
    ]
    assert scores[1] > scores[0] + 6
    assert over.diagnostics["rounds averaged"] == ROUNDS
    assert alone.diagnostics["rounds averaged"] == 1
    assert over.notes[0] == "the mean of 16 rounds, attacked by closed-form-linear"


def test_rounds_whose_weights_moved_are_left_out(noisy: Noisy) -> None:
    def moving(first: Tensors, number: int) -> Tensors:
        return {name: tensor * (1.0 if number > ROUNDS - 3 else 2.0) for name, tensor in first.items()}

    assert average(noisy(moving)[0], 0.05)[1] == 3


def test_rounds_on_examples_of_other_labels_are_left_out(noisy: Noisy) -> None:
    observation = noisy()[0]
    assert observation.labels is not None
    first, *rest = observation.earlier_observations
    other = replace(first, labels=(observation.labels + 1) % 10)
    assert average(replace(observation, earlier_observations=(other, *rest)), 0.05)[1] == ROUNDS - 1


def test_the_mean_gradient_is_that_at_the_mean_weights(noisy: Noisy) -> None:
    def nudged(first: Tensors, number: int) -> Tensors:
        return {name: tensor * (1.0 + 1e-3 * number) for name, tensor in first.items()}

    mean, rounds = average(noisy(nudged)[0], 0.05)
    assert rounds == ROUNDS
    first = dict(noisy()[0].model.state_dict())
    for name, tensor in mean.model.state_dict().items():
        assert torch.allclose(tensor, first[name] * (1.0 + 1e-3 * (ROUNDS + 1) / 2), rtol=1e-5)


def test_mistakes_are_one_clear_sentence(noisy: Noisy) -> None:
    observation = noisy()[0]

    def attacked(**settings: Any) -> None:
        RoundAveraging(RoundAveragingConfig.model_validate(settings))(observation, seeding.generator(1, "attack"))

    with pytest.raises(NotApplicable, match="names this attack itself"):
        attacked(attack="round-averaging")
    with pytest.raises(FedsimError, match="settings of 'map-estimate'"):
        attacked(attack="map-estimate", options={"max_iterations": 0})
