"""Several local steps: empty ones, labels, and the two attacks from end to end."""

import math

import pytest
import torch

from attacks.core.labels import infer_labels
from fedsim.core.examples import unique_examples
from fedsim.core.types import Observation, Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.metrics.labels import label_accuracy
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.attacks.core.matching.measures import cosine
from tests.attacks.local_steps.clients import SGD, found, small, unrolled
from tests.federating import scenario, watched


@pytest.fixture
def empty_first() -> tuple[Observation, Truth, World]:
    """A client whose first Poisson batch is empty, and not all of whose batches are."""
    training = {
        **{"clients": 8, "sampling": "poisson", "algorithm": "fedavg", "local_steps": 4},
        "optimizer": {**SGD, "momentum": 0.9},
    }
    _, _, world = watched(federation=training)
    sizes = [[len(drawn) for drawn in world.data.numbers_of(1, client)] for client in range(8)]
    client = next(client for client, size in enumerate(sizes) if not size[0] and sum(size) > 1)
    return watched(federation=training, client=client)


def test_the_truth_reproduces_an_update_with_an_empty_step(empty_first: tuple[Observation, Truth, World]) -> None:
    observation, truth, _ = empty_first
    inputs, labels = (torch.cat([getattr(b, of) for b in truth.batches])[None] for of in ("inputs", "labels"))
    masks = tuple(mask[None] for step in truth.masks for mask in step)
    assert cosine(unrolled(observation).gradients(inputs, masks, labels, [0])).item() < 1e-6


@pytest.mark.parametrize("name", ["fedavg-inversion", "sme"])
def test_an_attack_goes_through_an_empty_step(name: str, empty_first: tuple[Observation, Truth, World]) -> None:
    guess, psnr = found(name, empty_first, max_iterations=3)
    assert len(psnr) == len(guess.inputs) == empty_first[0].examples
    assert math.isfinite(guess.objective)
    assert bool(torch.isfinite(guess.inputs).all())


def test_labels_of_several_steps_are_counted() -> None:
    model = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25, "bias": True}
    training = small(batch_size=4, local_epochs=3) | {"partition": {"scheme": "resampled", "examples_per_client": 8}}
    world = worlds.build(scenario(model=model, **training))
    accuracies: list[float] = []
    for client in range(4):
        update, truth = local_training(world, world.models.first_weights, 1, client)
        observation = observe(
            Victim(world, WireEntry(1, client, world.models.first_weights, update), truth), ("batch-size",)
        )
        guessed = infer_labels(observation)
        assert len(guessed) == 8
        accuracies.append(label_accuracy(guessed.tolist(), unique_examples(truth.batches).labels.tolist()))
    assert sum(accuracies) / 4 > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg-inversion", pytest.param("sme", marks=pytest.mark.slow)])
def test_images_come_back_from_three_passes(
    name: str,
) -> None:
    seen = watched(
        model={"name": "mlp", "width": 96, "depth": 2, "dropout": 0.0}, **small(batch_size=4, local_epochs=3)
    )
    guess, psnr = found(name, seen, max_iterations=400)
    assert guess.inputs.shape == (4, 1, 8, 8)
    assert min(psnr) > 25.0
