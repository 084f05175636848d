"""The objective at the truth: 0 where the truth explains the update, and what it is where it does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core.types import Truth, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.victim import Victim

Build = Callable[..., Scenario]
ROUNDING = 1e-9  # of sums in double precision over gradients that are equal bit by bit


def trained(scenario: Build, **federation: Any) -> tuple[worlds.World, Update, Truth]:
    world = worlds.build(scenario(federation={"batch_size": 2, **federation}))
    return world, *local_training(world, world.models.first_weights, 1, 0)


def at_truth(world: worlds.World, update: Update, truth: Truth) -> float | None:
    return Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth).objective_at_truth


def times(update: Update, factor: float) -> Update:
    return replace(update, tensors={name: factor * tensor for name, tensor in update.tensors.items()})


def test_it_is_0_along_the_gradient_and_2_against_it(scenario: Build) -> None:
    world, update, truth = trained(scenario)
    assert at_truth(world, update, truth) == pytest.approx(0.0, abs=ROUNDING)
    # Multiplying float32 entries rounds each by 2^-24 at most, which moves a cosine by less than 1e-12.
    assert at_truth(world, times(update, 3.7), truth) == pytest.approx(0.0, abs=ROUNDING)
    assert at_truth(world, times(update, -1.0), truth) == pytest.approx(2.0, abs=ROUNDING)


def test_it_is_1_minus_the_share_of_the_norm_that_lies_along_the_gradient(scenario: Build) -> None:
    """Leave out one parameter: the cosine is the norm of the rest over the whole."""
    world, update, truth = trained(scenario)
    name = max(update.tensors, key=lambda name: float(update.tensors[name].norm()))
    rest = {**update.tensors, name: torch.zeros_like(update.tensors[name])}
    squares = {n: float(t.double().square().sum()) for n, t in update.tensors.items()}
    cosine = (1 - squares[name] / sum(squares.values())) ** 0.5
    assert 0.1 < cosine < 0.9
    assert at_truth(world, replace(update, tensors=rest), truth) == pytest.approx(1 - cosine, abs=ROUNDING)


def test_an_update_of_zeros_points_nowhere(scenario: Build) -> None:
    world, update, truth = trained(scenario)
    assert at_truth(world, times(update, 0.0), truth) == 1.0


def test_masks_belong_to_the_truth(scenario: Build) -> None:
    world, update, truth = trained(scenario)
    others = tuple(tuple(1.0 - site for site in step) for step in truth.masks)
    found = at_truth(world, update, replace(truth, masks=others))
    assert found is not None
    assert found > 0.01


def test_draws_belong_to_the_truth(scenario: Build) -> None:
    own = {"name": "feature-cutmix", "at": "3", "size": [4, 4], "probability": 1.0, "per_sample": True}
    tables = {"model": {"name": "convnet"}, "federation": {"batch_size": 5}, "components": [own]}
    world = worlds.build(scenario(**tables))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    assert at_truth(world, update, truth) == pytest.approx(0.0, abs=ROUNDING)
    without = at_truth(world, update, replace(truth, draws=()))
    assert without is not None
    assert without > 1000 * ROUNDING


@pytest.mark.parametrize("steps", [2, 3])
def test_an_update_of_several_steps_is_not_one_gradient(scenario: Build, steps: int) -> None:
    world, update, truth = trained(scenario, algorithm="fedavg", local_steps=steps)
    assert len(truth.batches) == steps
    assert at_truth(world, update, truth) is None
