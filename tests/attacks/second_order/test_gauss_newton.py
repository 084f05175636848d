"""Second-order steps: solutions against the truth and against the bound."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attacks.core.client_gradient import client_gradient
from fedsim.core import registry
from fedsim.core.types import Observation, PublicKnowledge
from tests.attacks.second_order.solved import ALL, NAME, SMOOTH, Toy, Watched, distances, equations_of, lenet, solve


def replace_knowledge(observation: Observation, missing: str) -> Any:
    threat = observation.threat
    return threat.model_copy(update={"knows": tuple(own for own in threat.knows if own != missing)})


def test_a_digit_comes_back_through_three_convolutions_in_a_few_steps(toy: Toy) -> None:
    digits = registry.get("dataset", "mnist5k")
    data = digits.make(digits.config())
    observation, _ = toy(lenet(), (1, 28, 28), 1, classes=10, dtype=torch.float32)
    image, label = data.train.inputs[:1], data.train.labels[:1]
    tensors = client_gradient(observation, image, label, None)
    seen = replace(observation, labels=None, spec=data.spec, update=replace(observation.update, tensors=tensors))
    guess = solve(seen)
    assert -10 * math.log10(float((guess.inputs - image).square().mean()) * data.spec.std[0] ** 2) > 80
    assert guess.labels.tolist() == label.tolist()
    assert guess.is_exact
    assert guess.iterations <= 10


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus])
def test_smooth_activations_are_solved(toy: Toy, activation: type[nn.Module]) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=activation), (1, 8, 8), 1, classes=10)
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-6
    assert guess.stopped == "the equations hold up to rounding"


@pytest.mark.parametrize("size", [1, 2])
def test_unknown_masks_come_out_with_the_images(toy: Toy, size: int) -> None:
    observation, truth = toy(lenet(1, 8, 12, 0.5), (1, 8, 8), size, classes=10)
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-6
    order = [int((guess.inputs - image).flatten(1).norm(dim=1).argmin()) for image in truth.batches[0].inputs]
    assert guess.masks is not None
    torch.testing.assert_close(guess.masks[0][order], truth.masks[0][0], atol=1e-6, rtol=0)
    free = size * 48 - int((truth.masks[0][0] == 0).all(0).sum()) * size
    assert guess.facts["unknowns"] == 64 * size + (free if size > 1 else 0)


def test_under_noise_the_error_is_that_of_the_bound(watched: Watched) -> None:
    errors, floors = [], []
    for client in range(2):
        observation, truth, _ = watched(
            client=client, model=SMOOTH, knows=ALL, defenses=[{"name": "gradient-noise", "scale": 1e-3}]
        )
        guess = solve(observation)
        assert guess.facts["restarts"] == 1
        errors.append(float(distances(guess, truth).square()))
        equations = equations_of(observation)
        rows = equations.jacobian(truth.batches[0].inputs.flatten().double())
        floors.append(float((rows @ rows.T + torch.eye(64)).inverse().diagonal().mean()))
    ratio = 10 * math.log10(sum(errors) / sum(floors))
    assert abs(ratio) < 1.5  # dB: 128 squared errors leave a deviation of half a dB


def test_what_it_cannot_solve_it_refuses(toy: Toy, watched: Watched) -> None:
    smooth = toy(lenet(1, 8, 4), (1, 8, 8), 2, classes=10)[0]
    dropping = toy(lenet(1, 8, 4, 0.5), (1, 8, 8), 1, classes=10)[0]
    unaware = replace(dropping, threat=replace_knowledge(dropping, "dropout-rates"))
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4))
    few = {"8.bias": smooth.update.tensors["8.bias"]}
    cases = {
        "no smooth function of the inputs": toy(pooled, (1, 8, 8), 1)[0],
        "rates that are not known": unaware,
        "10 equations for 128 unknowns": replace(smooth, update=replace(smooth.update, tensors=few)),
        "in an order that is not known": replace(smooth, local_steps=2, batch_sizes=(1, 1), examples=2),
        "signs alone": replace(smooth, public=(PublicKnowledge("signs", {"signs": True}),)),
    }
    for reason, refused in cases.items():
        method = registry.get("attack", NAME)
        verdict = method.make(method.config()).fits(refused)
        assert not verdict.holds
        assert reason in verdict.reason


def test_a_gradient_of_noise_is_not_called_solved(toy: Toy, without_information: Any) -> None:
    observation, truth = toy(lenet(1, 8, 4), (1, 8, 8), 1, classes=10)
    guess = solve(without_information(observation), restarts=1)
    assert not guess.is_exact
    assert guess.objective > 0.1
    assert guess.stopped != "the equations hold up to rounding"
    assert float(distances(guess, truth).min()) > 0.5


def test_inputs_outside_of_the_pixel_range_are_found_without_it(toy: Toy) -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), 1, classes=10)
    narrow = replace(observation, spec=replace(observation.spec, std=(0.5,)))
    assert float(truth.batches[0].inputs.abs().max()) > 2.0
    guess = solve(narrow, max_iterations=10)
    assert float(distances(guess, truth).max()) < 1e-6
    assert guess.facts["restarts"] == 1
