from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.core.client_gradient import client_gradient
from fedsim.core import seeding
from tests.attacks.second_order.solved import lenet
from tests.attacks.solving import assert_refused, sending, solve, toy
from tests.federating import watched

NAME = "copa"
ACTIVATIONS = {"leaky": lambda: nn.LeakyReLU(0.2), "sigmoid": nn.Sigmoid, "identity": nn.Identity, "relu": nn.ReLU}


def net(activation: str, channels: tuple[int, ...], strides: tuple[int, ...], side: int, rate: float = 0.0):
    layers: list[nn.Module] = []
    with seeding.isolate_randomness(1):
        for inputs, outputs, stride in zip(channels, channels[1:], strides, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), ACTIVATIONS[activation]()]
            side = -(-side // stride)
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(rate), nn.Linear(channels[-1] * side * side, 4))


@pytest.mark.paper_step("copa", "constraints of weights and gradient, by least squares")
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("activation", ["leaky", "sigmoid", "identity"])
def test_with_enough_equations_it_gives_what_r_gap_gives(activation, rate):
    observation, truth = toy(net(activation, (1, 4, 6), (1, 1), 6, rate), (1, 6, 6), 1)
    guess, other = solve(NAME, observation), solve("r-gap", observation)
    torch.testing.assert_close(guess.inputs, other.inputs, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)
    assert [m.tolist() for m in guess.masks or ()] == [m.tolist() for m in truth.masks[0]]
    assert guess.diagnostics["walks"] == 1
    assert guess.is_exact
    assert other.is_exact


@pytest.mark.paper_step("copa", "constraints pulled back through the layers")
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("activation", ["leaky", "sigmoid", "identity"])
def test_deeper_constraints_close_the_gap_that_stops_r_gap(activation, rate):
    observation, truth = toy(net(activation, (1, 8, 3, 4), (1, 2, 2), 6, rate), (1, 6, 6), 1)
    assert solve("r-gap", observation).stop_reason.startswith("gave up")
    guess = solve(NAME, observation)
    assert guess.is_exact
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-4, rtol=1e-4)
    assert guess.stop_reason == "solved layer by layer"
    assert guess.diagnostics["rank of '2'"] < guess.diagnostics["unknowns of '2'"]


@pytest.mark.paper_step("copa", "non-invertible activations")
@pytest.mark.parametrize("strides", [*(pytest.param(two, marks=pytest.mark.slow) for two in ((1, 1), (1, 2))), (2, 2)])
def test_relu_layers_of_some_width(strides):
    observation, truth = toy(net("relu", (1, 16, 16), strides, 8), (1, 8, 8), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)
    assert guess.objective < 1e-12


@pytest.mark.parametrize(("rate", "labels"), [(0.0, [0, 1, 3]), (0.5, [2, 2, 3])])
def test_a_batch_through_relu_where_labels_or_dropout_tell_its_images_apart(rate, labels):
    observation, truth = toy(lenet(1, 8, 12, rate, nn.ReLU), (1, 8, 8), 3, classes=10)
    inputs, labels = truth.batches[0].inputs, torch.tensor(labels)
    tensors = client_gradient(observation, inputs, labels, truth.masks[0])
    seen = sending(observation, tensors, labels=labels)
    guess = solve(NAME, seen)
    assert guess.is_exact
    errors = torch.cdist(guess.inputs.flatten(1), inputs.flatten(1))
    assert sorted(errors.argmin(1).tolist()) == [0, 1, 2]
    assert float(errors.min(1).values.max()) < 1e-6 * float(inputs.norm())


def test_missing_equations_are_named_and_the_equations_at_hand_hold():
    observation, truth = toy(net("identity", (1, 3, 2), (1, 2), 8, 0.5), (1, 8, 8), 1)
    guess = solve(NAME, observation)
    assert guess.stop_reason == "solved in part: '0' has 62 independent equations for 64 unknowns"
    assert guess.objective < 1e-12
    assert not guess.is_exact
    error = float((guess.inputs - truth.batches[0].inputs).norm() / truth.batches[0].inputs.norm())
    assert 1e-3 < error < 0.2


def test_narrow_relu_layers_are_admitted_to_fail():
    guess = solve(NAME, toy(net("relu", (1, 6, 3), (1, 2), 10), (1, 10, 10), 1)[0], walks=3)
    assert guess.stop_reason == "walks used up, the gradient is not matched"
    assert guess.iterations == len(guess.history) == 3
    assert not guess.is_exact
    assert guess.objective == min(value for _, value in guess.history)


def test_refuses_with_the_reason():
    observation = toy(net("relu", (1, 4), (1,), 6), (1, 6, 6), 1)[0]
    cases = {
        "mixes 4 examples": toy(net("relu", (1, 4), (1,), 6), (1, 6, 6), 4)[0],
        "3 local steps": replace(observation, local_steps=3),
        "GELU": watched()[0],
    }
    assert_refused(NAME, cases)
