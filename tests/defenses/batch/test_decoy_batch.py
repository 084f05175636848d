"""Decoys: the gradient stays near while the images move away, in the proportion that the settings say."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.batch.decoy_batch import DecoyBatch, DecoyBatchConfig
from fedsim.core import seeding
from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.types import Batch
from fedsim.metrics.image import ssim


def step(model: nn.Module | None = None) -> LocalStep:
    numbers = torch.Generator().manual_seed(1)
    with seeding.isolate_randomness(2):
        model = model or nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 4))
    batch = Batch(torch.rand(3, 1, 8, 8, generator=numbers), torch.tensor([0, 1, 3]))
    return LocalStep(model.train(), dict(model.named_parameters()), batch, 3.0)


def refined(local: LocalStep, **settings: Any) -> Batch:
    here = HookContext(1, 0, 0, torch.Generator().manual_seed(0), local=local)
    return DecoyBatch(DecoyBatchConfig(**settings)).on_batch(local.batch, here)


def gap(local: LocalStep, changed: Batch) -> float:
    def gradient(batch: Batch) -> Tensor:
        loss = F.cross_entropy(local.model(batch.inputs), batch.labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(local.parameters.values()))])

    ours, theirs = gradient(changed), gradient(local.batch)
    return float((ours - theirs).square().sum() / theirs.square().sum())


def test_without_noise_and_distance_nothing_happens() -> None:
    local = step()
    assert torch.equal(refined(local, noise=0.0, distance_weight=0.0).inputs, local.batch.inputs)
    assert torch.equal(refined(local, noise=0.0, steps=0).inputs, local.batch.inputs)


@pytest.mark.paper_step("decoy-batch", "gap of the gradients")
def test_without_distance_the_gradient_comes_back() -> None:
    local = step()
    noisy = refined(local, noise=0.3, steps=0)
    near = refined(local, noise=0.3, steps=200, distance_weight=0.0, learning_rate=0.02)
    assert gap(local, near) < 1e-3 < gap(local, noisy)


@pytest.mark.paper_step("decoy-batch", "trade-off of gradient gap and image distance")
def test_more_weight_moves_the_images_further_away_and_costs_utility() -> None:
    local = step()
    changed = [refined(local, distance_weight=weight, steps=40) for weight in (0.03, 0.3, 3.0)]
    likeness = [float(ssim(own.inputs.clamp(0, 1), local.batch.inputs).mean()) for own in changed]
    gaps = [gap(local, own) for own in changed]
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[0] > 0.9
    assert likeness[2] < 0.2
    assert gaps == sorted(gaps)


def test_it_stays_in_the_batchs_range_and_leaves_the_model_alone() -> None:
    with seeding.isolate_randomness(3):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    local = step(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = refined(local, noise=1.0, distance_weight=5.0)
    low, high = local.batch.inputs.aminmax()
    assert float(changed.inputs.min()) >= float(low)
    assert float(changed.inputs.max()) <= float(high)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inputs_that_are_no_images_have_no_distance() -> None:
    with seeding.isolate_randomness(4):
        model = nn.Linear(6, 4)
    local = LocalStep(model, dict(model.named_parameters()), Batch(torch.rand(2, 6), torch.tensor([0, 1])), 2.0)
    assert refined(local, distance_weight=1.0).inputs.shape == (2, 6)
