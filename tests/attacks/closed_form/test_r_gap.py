from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.solving import assert_refused, solve, toy
from tests.federating import watched

NAME = "r-gap"
ACTIVATIONS = {"leaky": lambda: nn.LeakyReLU(0.2), "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "identity": nn.Identity}


def net(rate: float = 0.0, *, bias: bool = True, activation: str = "leaky", classes: int = 4, stride: int = 1):
    """Three layers; with a stride of 2 the second convolution gives too few equations."""
    act, side = ACTIVATIONS[activation], 6 // stride
    with seeding.isolate_randomness(1):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=bias),
            act(),
            nn.Conv2d(4, 6 if stride == 1 else 2, 3, stride, padding=1, bias=bias),
            act(),
            nn.Flatten(),
            nn.Dropout(rate),
            nn.Linear((6 if stride == 1 else 2) * side * side, classes, bias=bias),
        )


@pytest.mark.paper_step("r-gap", "weight and gradient constraints, solved by least squares")
@settings(max_examples=15, deadline=None)
@given(
    rate=st.sampled_from([0.0, 0.25, 0.5]),
    bias=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    classes=st.integers(2, 4),
    seed=st.integers(0, 50),
)
def test_recovers_image_label_and_masks(rate, bias, activation, classes, seed):
    assume(bias or classes > 2 or activation == "sigmoid")  # the others have twins, see below
    model = net(rate, bias=bias, activation=activation, classes=classes)
    observation, truth = toy(model, (1, 6, 6), 1, classes=classes, seed=seed)
    guess = solve(NAME, replace(observation, labels=None))
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-4, rtol=1e-4)
    assert torch.equal(guess.labels, truth.batches[0].labels)
    assert guess.objective < 1e-9
    assert [m.tolist() for m in guess.masks or ()] == [m.tolist() for m in truth.masks[0]]
    assert guess.stop_reason == "solved layer by layer"
    assert guess.diagnostics["rank of '2'"] == guess.diagnostics["unknowns of '2'"] == 144


def test_twins_of_two_classes_are_told_apart_by_the_pixel_range():
    """Scaling an image by the ratio of both roots leaves the gradient of a net without biases as it is."""
    seen = set()
    for seed in range(12):
        observation, truth = toy(net(bias=False, classes=2), (1, 6, 6), 1, classes=2, seed=seed)
        guess, image = solve(NAME, observation), truth.batches[0].inputs
        assert guess.objective < 1e-9
        factor = float((guess.inputs * image).sum() / image.square().sum())
        torch.testing.assert_close(guess.inputs, factor * image, atol=1e-6, rtol=1e-6)
        seen.add(guess.diagnostics["heads that fit"])
        if guess.diagnostics["heads that fit"] == 1:
            assert factor == pytest.approx(1.0, abs=1e-6)
            continue
        assert any("2 images fit the gradient" in note for note in guess.notes)
        excess = [float((one.abs() - 2.5).clamp_min(0.0).norm()) for one in (guess.inputs, image)]
        assert excess[0] <= excess[1] + 1e-9
    assert seen == {1.0, 2.0}


@pytest.mark.paper_step("r-gap", "recursion to the layer before, through weights and activation")
@pytest.mark.parametrize("activation", ["leaky", "sigmoid"])
def test_dense_chains_with_dropout_everywhere(activation):
    act = ACTIVATIONS[activation]
    with seeding.isolate_randomness(3):
        layers = [nn.Flatten(), nn.Linear(12, 20, bias=False), act(), nn.Dropout(0.3)]
        layers += [nn.Linear(20, 16, bias=False), act(), nn.Dropout(0.5), nn.Linear(16, 4, bias=False)]
        observation, truth = toy(nn.Sequential(*layers), (3, 2, 2), 1)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-8, rtol=1e-8)
    assert [m.tolist() for m in guess.masks or ()] == [m.tolist() for m in truth.masks[0]]
    assert guess.diagnostics["zero share"] == pytest.approx(
        float((torch.cat([m.flatten() for m in truth.masks[0]]) == 0).double().mean())
    )


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_dropout_between_convolutions_costs_rank_but_not_the_image(kind):
    with seeding.isolate_randomness(1):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Tanh(),
            kind(0.5),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * 36, 4),
        )
    observation, truth = toy(model, (1, 6, 6), 1, seed=2)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs, truth.batches[0].inputs, atol=1e-6, rtol=1e-6)
    assert [m.tolist() for m in guess.masks or ()] == [m.tolist() for m in truth.masks[0]]


def test_dropout_of_pixels_leaves_grey_holes():
    with seeding.isolate_randomness(1):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 4))
    observation, truth = toy(model, (3, 3, 3), 1)
    guess = solve(NAME, observation)
    seen = truth.batches[0].inputs * truth.masks[0][0].view(1, 3, 3, 3)
    torch.testing.assert_close(guess.inputs, seen, atol=1e-10, rtol=1e-10)


@pytest.mark.paper_step("r-gap", "rank deficiency of a layer")
def test_too_few_equations_are_reported_without_an_image():
    guess = solve(NAME, toy(net(stride=2), (1, 6, 6), 1)[0])
    assert guess.stop_reason.startswith("gave up: '2' gives ")
    assert guess.diagnostics["rank of '2'"] < guess.diagnostics["unknowns of '2'"] == 144
    assert not len(guess.inputs)


def test_refuses_with_the_reason():
    shape = (1, 6, 6)
    observation = toy(net(0.25), shape, 1)[0]
    relu = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4))
    blind = replace(observation, threat=observation.threat.model_copy(update={"knows": ("batch-size",)}))
    cases = {
        "mixes 4 examples": toy(net(), shape, 4)[0],
        "3 local steps": replace(observation, local_steps=3),
        "rates are not known": blind,
        "has no inverse; attack 'copa'": toy(relu, shape, 1)[0],
        "GELU": watched()[0],
        "not the cross entropy": replace(observation, loss=lambda outputs, _labels: outputs.square().mean()),
    }
    assert_refused(NAME, cases)
    with pytest.raises(NotApplicable, match="144 unknowns, more than 'largest_system' = 100"):
        solve(NAME, observation, largest_system=100)
