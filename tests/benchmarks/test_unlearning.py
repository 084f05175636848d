"""The benchmark of forgetting works out the gradient that is missing, and judges a guess by all digits."""

import pytest
import torch

from benchmarks import unlearning
from benchmarks.unlearning import (
    attack_digit,
    federation,
    gradient,
    judge_digit,
    removed_gradient,
    train_rounds,
    vectors,
    without,
)
from fedsim.core.types import Tensors
from fedsim.scenario.world import World

NUMBER = 3


@pytest.fixture(scope="module")
def world() -> World:
    return federation()


def alike(ours: Tensors, theirs: Tensors) -> bool:
    """To single precision, of which n g - (n - 1) g' loses a factor of n = 200."""
    return all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


def test_the_missing_gradient_is_that_of_the_digit_and_one_round_of_models_shows_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlearning, "_ROUNDS", (1,))
    every, first = world.data.dataset.train, world.models.first_weights
    alone = gradient(world, first, every.select(torch.tensor([NUMBER])))
    assert alike(
        removed_gradient(gradient(world, first, every), gradient(world, first, without(every, NUMBER)), 200), alone
    )
    seen = {vector.setting: vector.gradient for vector in vectors(world, NUMBER, {1: train_rounds(world, every, 1)})}
    assert alike(seen["updates of round 1, with and without"], alone)
    assert alike(seen["global models after 1 rounds"], alone)
    assert not alike(seen["ordinary update of 25 digits (control)"], alone)
    assert not alike(seen["updates of round 1, another digit forgotten (control)"], alone)


def test_the_closed_form_finds_the_digit_in_its_gradient_and_not_in_another(world: World) -> None:
    first, every = world.models.first_weights, world.data.dataset.train
    for number, expected in ((NUMBER, (1.0, 1.0)), (NUMBER + 1, (0.0, 0.0))):
        own = gradient(world, first, every.select(torch.tensor([number])))
        guess = attack_digit(world, unlearning.Seen("", own, first), number, "closed-form-linear")
        assert judge_digit(world, guess, NUMBER) == expected
    assert judge_digit(world, None, NUMBER) == (0.0, 0.0)
