"""Whole walks from the head to the picture, what they refuse, and how they end."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.types import MethodDescription, Observation, Reconstruction
from fedsim.core.types.effects import AddedNoise, Clipped
from tests.attacks.second_order.residual import group, of_digits, residual
from tests.attacks.second_order.solved import toy
from tests.attacks.solving import answer, without_information


def attack(**settings: Any) -> Any:
    method = registry.get("attack", "own-statistics")
    return method.make(method.config.model_validate(settings))


def worst(guess: Reconstruction, truth: Tensor, observation: Observation) -> float:
    """PSNR in dB of the worst image; none where one is missing."""
    if len(guess.inputs) < len(truth):
        return -math.inf
    errors = (guess.inputs - truth).double() * torch.tensor(observation.spec.std).view(-1, 1, 1)
    return float(-10 * errors.square().flatten(1).mean(1).log10().max())


@pytest.mark.slow
def test_a_digit_comes_back_bit_by_bit_behind_group_norm() -> None:
    observation, truth = of_digits(residual(4, 8, 16))
    guess = answer(attack(), observation)
    assert worst(guess, truth, observation) > 80
    assert guess.is_exact
    assert guess.diagnostics["equal bit by bit"] == 1.0
    assert "the pixel grid was used" in guess.notes[0]
    assert guess.stop_reason == "every stage is solved"


@pytest.mark.slow
def test_without_the_grid_it_comes_back_up_to_its_contrast() -> None:
    observation, truth = of_digits(residual(16), side=4)
    guess = answer(attack(grid=0), observation)
    assert guess.is_exact
    assert "no pixel grid was used" in guess.notes[0]
    contrast = float((guess.inputs * truth).sum() / guess.inputs.square().sum())
    assert worst(replace(guess, inputs=contrast * guess.inputs), truth, observation) > 80
    assert worst(guess, truth, observation) > 25  # what norms of an epsilon of 1e-5 show of it in single precision


@pytest.mark.slow
def test_masks_of_a_dropout_before_the_head_come_out() -> None:
    observation, truth = of_digits(residual(16, rate=0.25), side=4)
    guess = answer(attack(), observation)
    assert guess.masks is not None
    assert worst(guess, truth, observation) > 80


@pytest.mark.slow
@pytest.mark.parametrize("norm", [group, nn.BatchNorm2d])
def test_two_images_come_back_from_what_the_head_read_of_each(norm: Any) -> None:
    observation, truth = of_digits(residual(6, 12, norm=norm), 2, side=4)
    guess = answer(attack(), observation)
    order = [int((guess.inputs - image).flatten(1).norm(dim=1).argmin()) for image in truth]
    assert sorted(order) == [0, 1]
    assert worst(replace(guess, inputs=guess.inputs[order]), truth, observation) > 80
    assert guess.is_exact


@pytest.mark.slow
def test_behind_relu() -> None:
    observation, truth = of_digits(residual(8, 16, 32, activation=nn.ReLU), side=4)
    guess = answer(attack(), observation)
    assert worst(guess, truth, observation) > 80


def test_a_gradient_of_noise_loses_a_stage_and_gives_no_image() -> None:
    observation, _ = of_digits(residual(4, 8))
    guess = answer(attack(starts=1), without_information(observation))
    assert not len(guess.inputs)
    assert not guess.is_exact
    assert guess.stop_reason.startswith("lost at the input of '4.first'")
    assert "it has 256 unknowns" in guess.stop_reason


def test_a_deadline_ends_it_without_an_image() -> None:
    observation, _ = of_digits(residual(4, 8))
    guess = attack()(observation, seeding.generator(0, "attack"), seconds=0.0)
    assert not len(guess.inputs)
    assert guess.stop_reason == "out of time"


def known(effect: Any) -> tuple[MethodDescription, ...]:
    return (MethodDescription("some defense", (effect,)),)


def test_what_it_cannot_solve_it_refuses_in_a_sentence() -> None:
    observation, _ = of_digits(residual(4, 8))
    frozen = residual(4, 8, norm=nn.Identity)
    narrow = toy(residual(2, 4), (1, 16, 16), 1, classes=10)[0]
    plain = toy(frozen, (1, 8, 8), 1, classes=10)[0]
    dense = toy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 1, classes=10)[0]
    hidden = frozenset({"0.weight"})
    cases = {
        "2 local steps": replace(observation, update=replace(observation.update, kind="delta"), local_steps=2),
        "no block normalises by statistics of the image": plain,
        "no chain of residual blocks": dense,
        "have 512 unknowns and at most 464 equations": narrow,
        "by 64 entries of images has more entries than the setting 'dense' (100)": observation,
        "does not separate 10 examples of 10 classes": toy(residual(4, 8), (1, 8, 8), 10, classes=10)[0],
        "the equations do not hold exactly": replace(observation, known_methods=known(AddedNoise("gaussian", 1.0))),
        "clips the gradient": replace(observation, known_methods=known(Clipped(1.0))),
        "is hidden": replace(observation, hidden_parameters=hidden),
    }
    for reason, refused in cases.items():
        verdict = attack(**({"dense": 100} if "(100)" in reason else {})).fits(refused)
        assert not verdict.holds
        assert reason in verdict.reason
