"""Matching by kernels: the objective by hand, and an image behind dropout."""

from math import exp

import pytest
import torch
import torch.nn.functional as F

from fedsim.metrics.image import score_items
from tests.attacks.solving import attacked
from tests.federating import watched


def test_the_objective_is_the_weighted_mean_of_kernels_by_hand() -> None:
    observation, _, _ = watched(model={"name": "mlp", "width": 8, "dropout": 0.0})
    distance = {"name": "gaussian-kernel", "width": 2.0, "depth_decay": 0.5}
    guess = attacked("kernel-matching", observation, max_iterations=3, distance=distance, priors=())
    loss = F.cross_entropy(observation.model(guess.inputs), guess.labels)
    gradients = torch.autograd.grad(loss, list(observation.model.parameters()))
    kernels, weights = 0.0, 0.0
    for depth, (gradient, seen) in enumerate(zip(gradients, observation.update.tensors.values(), strict=True)):
        share = float((gradient - seen).square().sum() / seen.square().sum())
        kernels, weights = kernels + 0.5**depth * (1 - exp(-share / 2)), weights + 0.5**depth
    assert guess.objective == pytest.approx(kernels / weights, rel=1e-4)


def test_an_image_comes_back_with_its_masks() -> None:
    observation, truth, _ = watched()
    guess = attacked("sapag", observation, max_iterations=300, schedule="cosine")
    assert min(item.values["psnr"] for item in score_items(guess, truth.batches[0], observation.spec).items) > 40
    for mask, other in zip(guess.masks, truth.masks[0], strict=True):
        assert torch.equal(mask.round(), other)
