"""What a known defense did to a batch, undone: transforms, pairs, and mixtures with random signs."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attacks.mixed_batches._unmixing import (
    Encodings,
    _by_turns,
    _pair_weights,
    mixed_labels,
    regress,
    regress_together,
    unmix_pairs,
)
from fedsim.core import registry, seeding
from fedsim.core.types import Observation, Reconstruction, Truth
from fedsim.metrics.image import score_items
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
MLP = {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0, "bias": True}
FAST = ("inverting-gradients", "cpl", "gradinversion", "copa", "cocktail-party", "sme", "fedavg-inversion", "spear")
RECOGNISABLE = 25.0  # dB


def auto(observation: Observation, *left_out: str) -> Reconstruction:
    method = registry.get("attack", "auto")
    settings = {"max_iterations": 30, "mask_iterations": 5, "leave_out": [*FAST, *left_out]}
    return method.make(method.config.model_validate(settings))(observation, seeding.generator(1, "attack"))


def worst(guess: Reconstruction, truth: Truth, world: World) -> float:
    return min(item.values["psnr"] for item in score_items(guess, truth.private[0], world.data.dataset.spec).items)


def seen(watched: Watched, name: str, batch: int, client: int, *extra: Any) -> tuple[Observation, Truth, World]:
    return watched(
        knows=(*KNOWN, *extra),
        client=client,
        model=MLP,
        defenses=[{"name": name}],
        federation={"batch_size": batch},
        data={"name": "mnist5k"},
    )


@pytest.mark.parametrize(("name", "batch", "client"), [("mixup", 2, 2), ("mixup", 4, 0), ("instahide", 4, 2)])
def test_who_knows_that_images_were_mixed_has_them_back_unmixed(
    watched: Watched, name: str, batch: int, client: int
) -> None:
    observation, truth, world = seen(watched, name, batch, client, "defenses")
    informed = auto(observation, "mixup-inversion")
    naive = auto(seen(watched, name, batch, client)[0])
    assert worst(informed, truth, world) > 100
    assert worst(naive, truth, world) < 40
    assert informed.notes[0].startswith("undone: mixtures")
    assert "won: span-intersection" in informed.notes[1]


def test_who_knows_the_transforms_has_the_image_back_where_they_left_it(watched: Watched) -> None:
    observation, truth, world = seen(watched, "ats", 1, 0, "defenses")
    informed, naive = auto(observation, "transform-inversion"), auto(seen(watched, "ats", 1, 0)[0])
    assert worst(informed, truth, world) > worst(naive, truth, world) + 4
    policies = observation.public[0].facts["transforms"]
    true = truth.batches[0].inputs
    (used,) = [policy for policy in policies if torch.allclose(policy(truth.private[0].inputs), true, atol=1e-5)]
    assert informed.notes[0].startswith(f"undone: the policy '{used}'")


def test_where_nothing_is_exact_the_search_for_the_change_decides(watched: Watched) -> None:
    observation, _, _ = watched(
        knows=(*KNOWN, "defenses"),
        client=2,
        model={"name": "convnet", "width": 8, "dropout": 0.0},
        defenses=[{"name": "mixup"}],
        federation={"batch_size": 2},
    )
    others = [name for name in registry.methods("attack") if name not in ("mixup-inversion", "dropout-inversion")]
    guess = auto(observation, *(name for name in others if name not in FAST))
    assert "won: mixup-inversion" in guess.notes[0]


@pytest.mark.parametrize("client", [0, 2])
def test_labels_of_mixtures_are_read_off_the_last_layer(watched: Watched, client: int) -> None:
    observation, truth, _ = seen(watched, "mixup", 4, client, "defenses")
    guess = Reconstruction(truth.batches[0].inputs, truth.private[0].labels, (), 0.0, 0, 0, (), "given")
    found = mixed_labels(observation, guess)
    assert found is not None
    assert torch.allclose(found.probabilities, truth.batches[0].labels.double(), atol=1e-4)
    assert found.distance < 1e-9


def test_pairs_of_one_class_are_told_apart_by_the_range_of_pixels_and_smoothness(watched: Watched) -> None:
    observation, truth, _ = seen(watched, "mixup", 4, 0, "defenses")
    labels = torch.tensor([3, 3, 1, 5])
    images = truth.private[0].inputs.flatten(1).double()
    weights = 0.3 * torch.eye(4).double() + 0.7 * torch.eye(4).double()[[2, 3, 1, 0]]
    probabilities = weights @ F.one_hot(labels, 10).double()
    found = unmix_pairs(observation, weights @ images, probabilities, labels)
    assert found is not None
    assert torch.cdist(found.inputs, images).min(0).values.max() < 1e-6
    assert any(torch.allclose(own, weights) for own in _pair_weights(probabilities, labels))


def test_the_regression_of_one_pixel_equals_the_search_of_all_signs() -> None:
    """Against brute force: the best of all patterns of signs, solved by bounded least squares."""
    from scipy.optimize import lsq_linear

    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(5, 2, dtype=torch.float64, generator=generator)
    low, high = torch.tensor([-1.0]).double(), torch.tensor([2.0]).double()
    magnitudes = torch.rand(5, 1, dtype=torch.float64, generator=generator)
    found = _by_turns(magnitudes, weights, low, high, generator)
    best = min(
        2.0 * lsq_linear(weights.numpy(), (torch.tensor(signs) * magnitudes[:, 0]).numpy(), (-1.0, 2.0)).cost
        for signs in itertools.product((-1.0, 1.0), repeat=5)
    )
    assert 5 * found.residual**2 == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1, 1, 3]])
def test_signs_and_weights_within_a_class_are_found(watched: Watched, labels: list[int]) -> None:
    """Two dozen encodings of four digits; where two share a class only the sum of their weights is told."""
    observation, truth, world = seen(watched, "mixup", 4, 0, "defenses")
    generator = torch.Generator().manual_seed(2)
    images = truth.private[0].inputs.flatten(1).double()
    weights = torch.rand(24, 4, dtype=torch.float64, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    encodings = weights @ images * (2.0 * torch.randint(2, (24, images.shape[1]), generator=generator) - 1.0)
    probabilities = weights @ F.one_hot(torch.tensor(labels), 10).double()
    found = regress(observation, Encodings(encodings, probabilities, torch.tensor(labels)), generator)
    errors = torch.cdist(found.inputs, images).min(0).values / images.shape[1] ** 0.5
    psnr = -20.0 * torch.log10(errors * world.data.dataset.spec.std[0])
    assert psnr.min() > (100.0 if len(set(labels)) == len(labels) else RECOGNISABLE)


def test_joined_encodings_are_solved_where_one_batch_alone_is_not(watched: Watched) -> None:
    """Two batches of three encodings share two images; their values are exact, so are the images found together."""
    _, truth, world = seen(watched, "mixup", 4, 0, "defenses")
    observation, _, _ = seen(watched, "mixup", 4, 0, "defenses")
    generator = torch.Generator().manual_seed(3)
    images, labels = truth.private[0].inputs.flatten(1).double(), torch.tensor([0, 1, 2, 3])
    batches = []
    for chosen in ([0, 1, 2], [1, 2, 3]):
        weights = torch.rand(3, 3, dtype=torch.float64, generator=generator)
        weights /= weights.sum(1, keepdim=True)
        values = weights @ images[chosen] * (2.0 * torch.randint(2, (3, images.shape[1]), generator=generator) - 1.0)
        own = labels[chosen]
        batches.append(Encodings(values, weights @ F.one_hot(own, 10).double(), own))
    found = regress_together(observation, batches, generator)
    errors = (found.inputs - images[:3]).square().mean(1).sqrt()
    assert found.inputs.shape == (3, images.shape[1])
    assert float((-20.0 * torch.log10(errors * world.data.dataset.spec.std[0])).min()) > RECOGNISABLE
