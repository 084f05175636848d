"""Mixtures are solved for their images: labels, pairs, and random signs."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from attacks.mixed_batches._unmixing import (
    Encodings,
    _pair_weights,
    _solve_alternately,
    mixed_labels,
    regress,
    regress_together,
    unmix_pairs,
)
from fedsim.core.types import Reconstruction
from tests.attacks.mixed_batches.mixing import seen

RECOGNISABLE = 25.0  # dB


@pytest.mark.parametrize("client", [0, 2])
def test_labels_of_mixtures_are_read_off_the_last_layer(client: int) -> None:
    observation, truth, _ = seen("mixup", 4, client, "defenses")
    guess = Reconstruction(truth.batches[0].inputs, truth.original_batches[0].labels, (), 0.0, 0, 0, (), "given")
    found = mixed_labels(observation, guess)
    assert torch.allclose(found.probabilities, truth.batches[0].labels.double(), atol=1e-4)
    assert found.distance < 1e-9


def test_pairs_of_one_class_are_told_apart_by_the_range_of_pixels_and_smoothness() -> None:
    observation, truth, _ = seen("mixup", 4, 0, "defenses")
    labels = torch.tensor([3, 3, 1, 5])
    images = truth.original_batches[0].inputs.flatten(1).double()
    weights = 0.3 * torch.eye(4).double() + 0.7 * torch.eye(4).double()[[2, 3, 1, 0]]
    probabilities = weights @ F.one_hot(labels, 10).double()
    found = unmix_pairs(observation, weights @ images, probabilities, labels)
    assert torch.cdist(found.inputs, images).min(0).values.max() < 1e-6
    assert any(torch.allclose(pair_weight, weights) for pair_weight in _pair_weights(probabilities, labels))


def test_the_regression_of_one_pixel_equals_the_search_of_all_signs() -> None:
    """Against brute force: the best of all patterns of signs, solved by bounded least squares."""
    from scipy.optimize import lsq_linear

    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(5, 2, dtype=torch.float64, generator=generator)
    low, high = torch.tensor([-1.0]).double(), torch.tensor([2.0]).double()
    magnitudes = torch.rand(5, 1, dtype=torch.float64, generator=generator)
    found = _solve_alternately(magnitudes, weights, low, high, generator)
    best = min(
        2.0 * lsq_linear(weights.numpy(), (torch.tensor(signs) * magnitudes[:, 0]).numpy(), (-1.0, 2.0)).cost
        for signs in itertools.product((-1.0, 1.0), repeat=5)
    )
    assert 5 * found.residual**2 == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1, 1, 3]])
def test_signs_and_weights_within_a_class_are_found(labels: list[int]) -> None:
    """Two dozen encodings of four digits; where two share a class only the sum of their weights is told."""
    observation, truth, world = seen("mixup", 4, 0, "defenses")
    generator = torch.Generator().manual_seed(2)
    images = truth.original_batches[0].inputs.flatten(1).double()
    weights = torch.rand(24, 4, dtype=torch.float64, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    encodings = weights @ images * (2.0 * torch.randint(2, (24, images.shape[1]), generator=generator) - 1.0)
    probabilities = weights @ F.one_hot(torch.tensor(labels), 10).double()
    found = regress(observation, Encodings(encodings, probabilities, torch.tensor(labels)), generator)
    errors = torch.cdist(found.inputs, images).min(0).values / images.shape[1] ** 0.5
    psnr = -20.0 * torch.log10(errors * world.data.dataset.spec.std[0])
    assert psnr.min() > (100.0 if len(set(labels)) == len(labels) else RECOGNISABLE)


def test_joined_encodings_are_solved_where_one_batch_alone_is_not() -> None:
    """Two batches of three encodings share two images; their values are exact, so are the images found together."""
    _, truth, world = seen("mixup", 4, 0, "defenses")
    observation, _, _ = seen("mixup", 4, 0, "defenses")
    generator = torch.Generator().manual_seed(3)
    images, labels = truth.original_batches[0].inputs.flatten(1).double(), torch.tensor([0, 1, 2, 3])
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
