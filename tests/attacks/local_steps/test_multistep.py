"""Several local steps: the simulated client, its labels, and the two attacks from end to end."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.core.labels import infer_labels
from attacks.gradient_matching._comparison import GeneralComparison, cosine, squared
from attacks.local_steps._unrolled import UnrolledComparison, dealt, local_steps
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.examples import distinct
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.metrics.labels import label_accuracy
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.attacks.local_steps.clients import found, mlp, setting_of, small

Toy = Callable[..., tuple[Observation, Truth]]
Named = Callable[..., Attack[Any]]
Watched = Callable[..., tuple[Observation, Truth, World]]
SGD = {"name": "sgd", "learning_rate": 0.1}


def as_step(observation: Observation, **changes: Any) -> Observation:
    """The gradient as one step of SGD with step size 0.1 would send it."""
    tensors = {name: 0.1 * tensor for name, tensor in observation.update.tensors.items()}
    return replace(observation, update=replace(observation.update, kind="delta", tensors=tensors), **changes)


def unrolled(observation: Observation, checkpointed: bool = False) -> UnrolledComparison:
    return UnrolledComparison(setting_of(observation), [observation], local_steps(observation), checkpointed)


@pytest.mark.parametrize("distance", [cosine, squared])
def test_one_step_on_the_whole_batch_is_the_gradient_attack(toy: Toy, distance: Any) -> None:
    gradient, _ = toy(mlp(0.25), (3, 2, 2), 3)
    step = as_step(gradient, examples=3, batch_sizes=(3,))
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn((2, 3, 3, 2, 2), generator=generator, dtype=torch.float64)
    masks = tuple(torch.rand((2, *site.shape), generator=generator).double() for site in gradient.sites)
    labels = torch.stack([gradient.labels] * 2)  # type: ignore[list-item]
    plain = GeneralComparison(setting_of(gradient), [gradient]).gradients(inputs, masks, labels, [0, 0])
    simulated = unrolled(step).gradients(inputs, masks, labels, [0, 0])
    assert torch.allclose(distance(simulated), distance(plain), rtol=1e-12)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_through_all_steps_agree_with_finite_differences(toy: Toy, checkpointed: bool) -> None:
    gradient, _ = toy(mlp(0.25), (3, 2, 2), 2)
    training = {"local_steps": 3, "batch_sizes": (2, 1, 2), "examples": 3, "learning_rate": 0.3}
    observation = as_step(gradient, **training, optimizer_settings={"momentum": 0.5})
    comparison = unrolled(observation, checkpointed)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn((1, 3, 3, 2, 2), generator=generator, dtype=torch.float64, requires_grad=True)
    sites = [site for step in local_steps(observation) for site in step.sites]
    masks = [torch.rand((1, *site.shape), generator=generator).double().requires_grad_() for site in sites]
    labels = torch.tensor([[0, 1, 3]])
    assert [mask.shape[1] for mask in masks] == [2, 1, 2]
    for distance in (cosine, squared):
        assert torch.autograd.gradcheck(
            lambda x, *m, d=distance: d(comparison.gradients(x, m, labels, [0])), (inputs, *masks), atol=1e-7
        )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_truth_reproduces_the_update(watched: Watched, momentum: float) -> None:
    optimizer = {**SGD, "momentum": momentum}
    observation, truth, _ = watched(**small(batch_size=3, local_epochs=2, optimizer=optimizer))
    assert observation.batch_sizes == (3, 1, 3, 1)
    inputs, labels = (torch.cat([getattr(b, of) for b in truth.batches])[None] for of in ("inputs", "labels"))
    masks = tuple(mask[None] for step in truth.masks for mask in step)
    comparison = unrolled(observation)
    assert cosine(comparison.gradients(inputs, masks, labels, [0])).item() < 1e-6
    assert cosine(comparison.gradients(inputs, tuple(torch.ones_like(m) for m in masks), labels, [0])).item() > 0.01


@pytest.fixture
def empty_first(watched: Watched) -> tuple[Observation, Truth, World]:
    """A client whose first Poisson batch is empty, and not all of whose batches are."""
    training = {
        **{"clients": 8, "sampling": "poisson", "algorithm": "fedavg", "local_steps": 4},
        "optimizer": {**SGD, "momentum": 0.9},
    }
    _, _, world = watched(federation=training)
    sizes = [[len(drawn) for drawn in world.data.drawn(1, client)] for client in range(8)]
    client = next(client for client, own in enumerate(sizes) if not own[0] and sum(own) > 1)
    return watched(federation=training, client=client)


def test_the_truth_reproduces_an_update_with_an_empty_step(empty_first: tuple[Observation, Truth, World]) -> None:
    observation, truth, _ = empty_first
    inputs, labels = (torch.cat([getattr(b, of) for b in truth.batches])[None] for of in ("inputs", "labels"))
    masks = tuple(mask[None] for step in truth.masks for mask in step)
    assert cosine(unrolled(observation).gradients(inputs, masks, labels, [0])).item() < 1e-6


@pytest.mark.parametrize("name", ["fedavg-inversion", "sme"])
def test_an_attack_goes_through_an_empty_step(
    name: str, attack_named: Named, empty_first: tuple[Observation, Truth, World]
) -> None:
    guess, psnr = found(attack_named, name, empty_first, max_iterations=3)
    assert len(psnr) == len(guess.inputs) == empty_first[0].examples
    assert math.isfinite(guess.objective)
    assert bool(torch.isfinite(guess.inputs).all())


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_labels_are_dealt_out_evenly(toy_observation: Observation, drawn: list[int]) -> None:
    observation = replace(toy_observation, local_steps=6, batch_sizes=(2, 2, 2) * 2, examples=6)
    arranged = dealt(torch.tensor(sorted(drawn)), observation).tolist()
    assert sorted(arranged) == sorted(drawn)
    for label in range(4):
        counts = [arranged[start : start + 2].count(label) for start in (0, 2, 4)]
        assert max(counts) - min(counts) <= 1


@pytest.fixture(scope="module")
def toy_observation(toy: Toy) -> Observation:
    return toy(mlp(0.0), (3, 2, 2), 2)[0]


def test_labels_of_several_steps_are_counted(scenario: Callable[..., Scenario]) -> None:
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
        accuracies.append(label_accuracy(guessed.tolist(), distinct(truth.batches).labels.tolist()))
    assert sum(accuracies) / 4 > 0.9


def test_labels_of_one_step_do_not_depend_on_the_step_size(watched: Watched) -> None:
    model = {"name": "mlp", "width": 24, "depth": 2, "bias": True}
    knows = ("batch-size", "dropout-rates")
    gradient, _, _ = watched(model=model, knows=knows, federation={"batch_size": 6})
    step, _, _ = watched(model=model, knows=knows, federation={"batch_size": 6, "algorithm": "fedavg"})
    assert torch.equal(infer_labels(step), infer_labels(gradient))


@pytest.mark.parametrize("name", ["fedavg-inversion", "sme"])
def test_images_come_back_from_three_passes(name: str, attack_named: Named, watched: Watched) -> None:
    seen = watched(
        model={"name": "mlp", "width": 96, "depth": 2, "dropout": 0.0}, **small(batch_size=4, local_epochs=3)
    )
    guess, psnr = found(attack_named, name, seen, max_iterations=400)
    assert guess.inputs.shape == (4, 1, 8, 8)
    assert min(psnr) > 25.0


@pytest.mark.parametrize("name", ["inverting-gradients", "closed-form-linear", "fedavg-inversion", "sme"])
def test_an_optimizer_that_sends_no_sum_of_gradients_is_refused(
    name: str, attack_named: Named, watched: Watched
) -> None:
    observation, _, _ = watched(federation={"algorithm": "fedavg", "optimizer": {"name": "adam"}})
    with pytest.raises(NotApplicable, match="one step of 'adam'"):
        attack_named(name)(observation, seeding.generator(1, "attack"))
    sgd = replace(observation, optimizer="sgd", optimizer_settings={"momentum": 0.9}, is_resumed=True)
    with pytest.raises(NotApplicable, match="velocity of an earlier round"):
        attack_named(name)(sgd, seeding.generator(1, "attack"))
