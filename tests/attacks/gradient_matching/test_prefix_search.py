"""The length of a prefix as an attacker finds it: read off zeros, or tried; and what it is worth."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknown_masks import FirstMasks, OptimisedMasks
from attacks.core.matching.unknowns import SearchProgress
from attacks.gradient_matching.prefix_search import read_prefixes
from fedsim.core import seeding
from fedsim.core.nets.masks import dropout_sites, expected_mask, inject_masks
from fedsim.core.types import Observation, Reconstruction, Truth
from tests.attacks.solving import attack_named, sending
from tests.federating import watched

NESTED = {"components": [{"name": "nested-dropout", "eta": 6.0}]}


def length_of(truth: Truth) -> int:
    return int(truth.masks[0][-1][0].sum())


def attacked(observation: Observation, **settings: object) -> Reconstruction:
    return attack_named("prefix-search", **settings)(observation, seeding.generator(5, "attack"))


@pytest.mark.parametrize("examples", [1, 4])
@pytest.mark.parametrize("components", [[], [{"name": "co-teaching", "same_batch": True, "forget_rate": 0.0}]])
def test_the_length_is_read_of_any_batch(
    examples: int,
    components: list[dict[str, Any]],
) -> None:
    for client in range(3):
        observation, truth, _ = watched(
            client=client,
            components=[*NESTED["components"], *components],
            model={"dropout": 0.0},
            federation={"batch_size": examples},
        )
        ((index, mask),) = read_prefixes(observation).items()
        assert torch.equal(mask, truth.masks[0][index])
        found = attacked(observation, max_iterations=2)
        (name,) = (site.name for site in observation.sites)
        assert found.diagnostics["places where k was read"] == 1.0
        assert found.diagnostics[f"k at '{name}'"] == length_of(truth)
        assert float(found.extras[f"nested-dropout.{name}"]) == length_of(truth)
        assert torch.equal(found.masks[0], truth.masks[0][0])


def test_behind_noise_nothing_is_read_and_every_length_is_tried() -> None:
    hits = 0
    for client in range(4):
        observation, truth, _ = watched(client=client, model={"dropout": 0.0}, **NESTED)
        noise = torch.Generator().manual_seed(client)
        noisy = {n: t + 1e-6 * torch.randn(t.shape, generator=noise) for n, t in observation.update.tensors.items()}
        changed = sending(observation, noisy)
        assert read_prefixes(changed) == {}
        found = attacked(changed, max_iterations=2, tried_for=40)
        assert found.diagnostics["places where k was read"] == 0.0
        hits += found.diagnostics["k at '6'"] == length_of(truth)
    assert hits >= 3


def test_masks_of_ordinary_dropout_stay_unknowns() -> None:
    observation, truth, _ = watched(**NESTED)
    found = attacked(observation, max_iterations=3)
    assert torch.equal(found.masks[1], truth.masks[0][1])
    assert bool(((found.masks[0] > 0.0) & (found.masks[0] < 1.0)).any())


def test_it_needs_a_prefix() -> None:
    observation, _, _ = watched()
    assert attack_named("prefix-search").fits(observation).reason == (
        "no layer of the model keeps a prefix of its features"
    )


@pytest.mark.parametrize(("examples", "reason"), [(1, ""), (3, "every example of the batch has a k of its own")])
def test_lengths_of_several_examples_are_not_read(
    examples: int,
    reason: str,
) -> None:
    own = [{"name": "nested-dropout", "eta": 6.0, "per_sample": True}]
    observation, _, _ = watched(components=own, federation={"batch_size": examples})
    assert attack_named("prefix-search").fits(observation).reason.startswith(reason)
    assert attack_named("prefix-search").fits(observation).holds is (examples == 1)


def test_a_prefix_is_not_rescaled_in_a_search() -> None:
    observation, truth, _ = watched(model={"dropout": 0.0}, **NESTED)
    client = SimulatedClient(observation.model, observation.loss, (), observation.sites)
    inputs, masks = truth.batches[0].inputs, truth.masks[0]
    with inject_masks(observation.sites, masks):
        expected = observation.model(inputs)
    assert torch.equal(client.outputs(inputs, masks, {}), expected)


@pytest.mark.parametrize("first", ["bernoulli", "mean"])
def test_masks_of_a_prefix_start_from_their_expectation(first: FirstMasks) -> None:
    observation, _, _ = watched(**NESTED)
    sites = dropout_sites(observation.model, observation.spec.shape, 1)
    unknown = OptimisedMasks(sites=tuple(sites), begin=first, relaxation="sigmoid", weight=1.0)
    variables: tuple[Tensor, ...] = unknown.first(torch.Generator().manual_seed(0))
    (plain, cut) = unknown.forward_values(tuple(v[None] for v in variables), SearchProgress())
    assert torch.isfinite(plain).all()
    assert torch.allclose(cut[0], expected_mask(sites[1]).clamp(0.018, 0.982), atol=1e-3)
    assert torch.isfinite(torch.as_tensor(unknown.prior((plain, cut)))).all()
