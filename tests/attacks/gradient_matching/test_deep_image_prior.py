"""Weights of an untrained network in place of images: what they paint, and where the search ends."""

import pytest
import torch
from torch.nn.utils import vector_to_parameters

from attacks.gradient_matching.deep_image_prior import Painter, first_weights, network_of
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Step
from fedsim.metrics.image import score_items
from tests.attacks.solving import attacked
from tests.federating import watched

SHAPE = (2, 3, 9, 6)


def test_each_row_is_what_the_network_makes_with_its_weights_of_its_victim_s_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.stack([first_weights(4, SHAPE, generator) for _ in range(3)])
    noise = torch.randn(2, 2, 4, 3, 2, generator=generator)
    with seeding.isolate_randomness(0):
        network = network_of(4, SHAPE)
    plain = Painter(network, noise, None).paint(weights, [1, 0, 1])
    least, greatest = torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 3.0)
    boxed = Painter(network, noise, (least, greatest)).paint(weights, [1, 0, 1])
    for row, victim in enumerate([1, 0, 1]):
        vector_to_parameters(weights[row], network.parameters())
        torch.testing.assert_close(plain[row], network(noise[victim]))
        torch.testing.assert_close(boxed[row], -2 + 5 * network(noise[victim]).sigmoid())
    assert plain.shape == (3, *SHAPE)


def test_the_search_lowers_the_objective_shows_images_and_is_as_its_seed() -> None:
    observation, truth, _ = watched()
    steps = list[Step]()
    guess = attacked("deep-image-prior", observation, steps.append, max_iterations=150, width=16)
    assert guess.objective < 0.05 * steps[0].objective
    assert {tuple(step.guess.shape) for step in steps} == {(1, 1, 8, 8)}
    best = steps[guess.best_iteration - 1].guess
    assert torch.equal(best, guess.inputs)
    assert min(item.values["psnr"] for item in score_items(guess, truth.batches[0], observation.spec).items) > 20
    first, again, other = (
        attacked("deep-image-prior", observation, max_iterations=5, width=16, stream=stream).inputs
        for stream in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_no_image_is_refused() -> None:
    observation, _, _ = watched(data={"name": "breast-cancer"})
    with pytest.raises(NotApplicable, match="the examples are not images"):
        attacked("deep-image-prior", observation)
