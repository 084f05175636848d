"""The simulated client: the truth reproduces an update, derivatives against finite differences."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.core.matching.comparison import GeneralComparison
from attacks.local_steps._unrolled import dealt, local_steps
from fedsim.core.types import Observation
from tests.attacks.core.matching.measures import cosine, squared
from tests.attacks.local_steps.clients import SGD, client_of, mlp, small, unrolled
from tests.attacks.solving import toy
from tests.federating import watched


def as_step(observation: Observation, **changes: Any) -> Observation:
    """The gradient as one step of SGD with step size 0.1 would send it."""
    tensors = {name: 0.1 * tensor for name, tensor in observation.update.tensors.items()}
    return replace(observation, update=replace(observation.update, kind="delta", tensors=tensors), **changes)


@pytest.fixture(scope="module")
def toy_observation() -> Observation:
    return toy(mlp(0.0), (3, 2, 2), 2)[0]


@pytest.mark.parametrize("distance", [cosine, squared])
def test_one_step_on_the_whole_batch_is_the_gradient_attack(distance: Any) -> None:
    gradient, _ = toy(mlp(0.25), (3, 2, 2), 3)
    step = as_step(gradient, examples=3, batch_sizes=(3,))
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn((2, 3, 3, 2, 2), generator=generator, dtype=torch.float64)
    masks = tuple(torch.rand((2, *site.shape), generator=generator).double() for site in gradient.sites)
    labels = torch.stack([gradient.labels] * 2)  # type: ignore[list-item]
    plain = GeneralComparison(client_of(gradient), [gradient]).gradients(inputs, masks, labels, [0, 0])
    simulated = unrolled(step).gradients(inputs, masks, labels, [0, 0])
    assert torch.allclose(distance(simulated), distance(plain), rtol=1e-12)


@pytest.mark.paper_step("fedavg-inversion", "derivatives through all steps")
@pytest.mark.parametrize("checkpointed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_through_all_steps_agree_with_finite_differences(checkpointed: bool) -> None:
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


@pytest.mark.paper_step("fedavg-inversion", "simulation of all local steps")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_truth_reproduces_the_update(momentum: float) -> None:
    optimizer = {**SGD, "momentum": momentum}
    observation, truth, _ = watched(**small(batch_size=3, local_epochs=2, optimizer=optimizer))
    assert observation.batch_sizes == (3, 1, 3, 1)
    inputs, labels = (torch.cat([getattr(b, of) for b in truth.batches])[None] for of in ("inputs", "labels"))
    masks = tuple(mask[None] for step in truth.masks for mask in step)
    comparison = unrolled(observation)
    assert cosine(comparison.gradients(inputs, masks, labels, [0])).item() < 1e-6
    assert cosine(comparison.gradients(inputs, tuple(torch.ones_like(m) for m in masks), labels, [0])).item() > 0.01


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_labels_are_dealt_out_evenly(toy_observation: Observation, drawn: list[int]) -> None:
    observation = replace(toy_observation, local_steps=6, batch_sizes=(2, 2, 2) * 2, examples=6)
    arranged = dealt(torch.tensor(sorted(drawn)), observation).tolist()
    assert sorted(arranged) == sorted(drawn)
    for label in range(4):
        counts = [arranged[start : start + 2].count(label) for start in (0, 2, 4)]
        assert max(counts) - min(counts) <= 1
