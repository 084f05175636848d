"""What an attack may not leave behind or draw from while it searches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack
from fedsim.core.nets import masks
from fedsim.core.nets.masks import disable_dropout, inject_masks, keep_masks
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step, Truth
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
Search = Callable[[Observation, torch.Generator], object]


class Own(Attack[Config]):
    """Does what it is told, shows a step, and guesses zeros."""

    def __init__(self, does: Search) -> None:
        super().__init__(Config())
        self.does = does

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        inputs = torch.zeros(1, *observation.spec.shape)
        self.does(observation, generator)
        on_step(Step(0, 1, 1, 0.0, 0.0, inputs))
        return Reconstruction.of(inputs)


class Restless(nn.Module):
    """Random in itself, as a noisy layer of a user's is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs + torch.randn_like(inputs))


@pytest.fixture
def observation(watched: Watched) -> Observation:
    return watched()[0]


def attacked(observation: Observation, does: Search) -> Reconstruction:
    return Own(does)(observation, torch.Generator().manual_seed(0))


def passed(observation: Observation, *_: object) -> Tensor:
    return observation.model.train()(torch.zeros(1, *observation.spec.shape))


def own_layer(_observation: Observation, _generator: torch.Generator) -> None:
    nn.Linear(2, 2)


@pytest.mark.parametrize(
    "does",
    [passed, own_layer, lambda *_: torch.rand(1), lambda seen, _: seen.model(torch.rand(1, 1, 8, 8))],
    ids=["passed to another function", "a layer of its own", "plain draw", "inputs of the model"],
)
def test_a_draw_from_the_global_generator_is_refused_and_undone(observation: Observation, does: Search) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(
        FedsimError, match="drew from torch's global generator.*generator=generator.*without_dropout"
    ) as refused:
        attacked(observation, does)
    inside = ", ".join(own.__name__ for own in (inject_masks, keep_masks))
    assert f"inside {inside} or without_dropout of {masks.__name__}" in str(refused.value)
    assert f"{seeding.__name__}.{seeding.isolate_randomness.__name__}." in str(refused.value)
    assert torch.equal(before, torch.random.get_rng_state())


def given(observation: Observation, generator: torch.Generator) -> None:
    torch.rand(1, generator=generator)
    with disable_dropout():
        passed(observation)
    with keep_masks(generator):
        passed(observation)
    with seeding.isolate_randomness(1):
        nn.Linear(2, 2)
        passed(observation)


def differentiated(observation: Observation, _generator: torch.Generator) -> None:
    def gradient(inputs: Tensor) -> Tensor:
        with disable_dropout():
            return torch.func.grad(lambda own: observation.model(own).square().sum())(inputs)

    torch.func.vmap(gradient)(torch.zeros(2, 1, *observation.spec.shape))


def test_the_model_may_run_inside_transforms_of_functions(observation: Observation) -> None:
    attacked(observation, differentiated)


def test_what_has_a_generator_masks_or_a_block_of_its_own_is_fine(observation: Observation) -> None:
    attacked(observation, given)


def test_a_model_that_is_random_in_itself_may_draw_but_not_its_dropout(observation: Observation) -> None:
    restless = replace(observation, model=Restless(observation.model))
    named = {f"model.{name}": t for name, t in observation.update.tensors.items()}
    restless = replace(restless, update=replace(observation.update, tensors=named))

    def inside(seen: Observation, _generator: torch.Generator) -> None:
        with disable_dropout():
            passed(seen)

    attacked(restless, inside)
    attacked(replace(restless, sites=()), passed)
    with pytest.raises(FedsimError, match="global generator"):
        attacked(restless, passed)


def test_who_watches_may_draw(observation: Observation) -> None:
    generator = torch.Generator().manual_seed(0)
    Own(lambda *_: None)(observation, generator, lambda _step: torch.rand(1))
    assert Own(lambda *_: None).together([observation] * 2, [generator] * 2, [lambda _step: torch.rand(1)] * 2)


def test_nothing_is_accumulated_in_the_observed_model(observation: Observation) -> None:
    first = next(observation.model.parameters())
    first.grad = kept = torch.ones_like(first)

    def backward(seen: Observation, _generator: torch.Generator) -> None:
        with disable_dropout():
            passed(seen).sum().backward()
        assert all(parameter.grad is None for parameter in seen.model.parameters())

    attacked(observation, backward)
    assert first.grad is kept
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(parameter.grad is None for parameter in list(observation.model.parameters())[1:])
    with disable_dropout():
        passed(observation).sum().backward()
    assert all(parameter.grad is not None for parameter in observation.model.parameters())


def test_an_error_of_the_search_is_told_as_it_is(observation: Observation) -> None:
    def fails(*_: Any) -> None:
        torch.rand(1)
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        attacked(observation, fails)
    assert not observation.model._forward_hooks
    assert not observation.model._forward_pre_hooks
