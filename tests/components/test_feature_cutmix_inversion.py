"""The Feature CutMix benchmark's attacker: in the client's own forward pass the truth explains the gradient."""

import torch

from benchmarks.feature_cutmix import CLIENTS, _is_mixed, decibels, inverted, world_of
from fedsim.client import local_training
from fedsim.losses import cross_entropy
from fedsim.showing import Showing


def test_told_the_draws_the_truth_explains_the_gradient_and_told_nothing_it_does_not() -> None:
    world = world_of("second")
    rounds = (local_training(world, world.first_weights, 1, client) for client in range(CLIENTS))
    update, truth = next(own for own in rounds if _is_mixed(own[1].draws[0]))
    model, (batch,), (private,) = world.model_with(world.first_weights), truth.batches, truth.private
    theirs = torch.cat([update.tensors[name].flatten() for name in world.parameters])
    distances = []
    for draws, labels in ((truth.draws[0], batch.labels), ({}, private.labels)):
        with Showing(draws):
            loss = cross_entropy(model(private.inputs), labels)
        ours = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(world.parameters.values()))])
        distances.append(float(1.0 - torch.cosine_similarity(ours, theirs, 0)))
    assert distances[0] < 1e-6
    assert distances[1] > 1e-3


def test_a_search_stays_in_the_range_of_pixels_and_depends_on_its_seed_alone() -> None:
    world = world_of(None)
    update, truth = local_training(world, world.first_weights, 1, 0)
    first, second = (inverted(world, update.tensors, truth.private[0].labels, {}, 2, 3) for _ in range(2))
    assert torch.equal(first, second)
    assert len(decibels(None, 1, told=False, iterations=2)) == 1
