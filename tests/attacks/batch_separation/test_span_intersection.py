"""Spans of two layers, intersected: batches come back, and noise blurs them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core.errors import NotApplicable
from tests.attacks.batch_separation.crossing import MLP, MNIST
from tests.attacks.solving import assert_refused, network, psnr_of, resending, sending, solve, toy, without_information
from tests.federating import watched

NAME = "span-intersection"


def dense(width: int, *, bias: bool, activation: type[nn.Module] = nn.GELU, rate: float = 0.0) -> nn.Module:
    return network(48, width, bias=bias, rates=(None, rate), activation=activation)


def ordered(guess, truth):
    """Rows of the guess in the order of the batch: a gradient has none."""
    return torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)


@settings(max_examples=8, deadline=None)
@given(
    batch_size=st.integers(2, 8),
    bias=st.booleans(),
    activation=st.sampled_from([nn.GELU, nn.SiLU, nn.Softplus]),
    seed=st.integers(0, 20),
)
def test_recovers_batches_without_labels(batch_size, bias, activation, seed):
    observation, truth = toy(dense(96, bias=bias, activation=activation), (3, 4, 4), batch_size, seed=seed)
    guess = solve(NAME, replace(observation, labels=None))
    order = ordered(guess, truth)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-7, rtol=1e-7)
    assert torch.equal(guess.labels[order], truth.batches[0].labels)
    assert guess.objective < 1e-10
    assert guess.diagnostics["examples found"] == guess.diagnostics["numerical rank"] == batch_size


@pytest.mark.parametrize(
    ("size", "bias"),
    [
        (8, True),
        (16, False),
        pytest.param(8, False, marks=pytest.mark.slow),
        pytest.param(32, True, marks=pytest.mark.slow),
    ],
)
def test_batches_of_digits_come_back_exactly(size, bias):
    knows = ("batch-size", "dropout-rates", "input-statistics")
    observation, truth, world = watched(
        data=MNIST, model={**MLP, "bias": bias}, federation={"batch_size": size}, knows=knows
    )
    guess = solve(NAME, observation)
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 100
    assert sorted(guess.labels.tolist()) == sorted(truth.batches[0].labels.tolist())
    assert guess.objective < 1e-9


def test_dropout_behind_the_second_layer_does_no_harm():
    observation, truth = toy(dense(160, bias=True, rate=0.5), (3, 4, 4), 4)
    guess = solve(NAME, observation)
    order = ordered(guess, truth)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-7, rtol=1e-7)
    assert torch.equal(guess.masks[0][order], truth.masks[0][0])


@pytest.mark.parametrize(("activation", "open_factor"), [(nn.ReLU, "scale-free"), (nn.Tanh, "odd")])
def test_activations_that_pass_factors_on_need_a_bias(activation, open_factor):
    without, _ = toy(dense(160, bias=False, activation=activation), (3, 4, 4), 3)
    with pytest.raises(NotApplicable, match=open_factor):
        solve(NAME, without)
    observation, truth = toy(dense(160, bias=True, activation=activation), (3, 4, 4), 3)
    guess = solve(NAME, observation)
    torch.testing.assert_close(guess.inputs[ordered(guess, truth)], truth.batches[0].inputs, atol=1e-7, rtol=1e-7)


def test_permuting_the_batch_and_scaling_the_loss_change_nothing():
    observation, truth = toy(dense(96, bias=True), (3, 4, 4), 4)
    batch, shuffled = truth.batches[0], torch.tensor([2, 0, 3, 1])
    changed = resending(observation, batch.inputs[shuffled], batch.labels[shuffled], -3.0)
    guess = solve(NAME, changed)
    torch.testing.assert_close(guess.inputs[ordered(guess, truth)], batch.inputs, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    ("spoil", "least"),
    [
        (lambda t, g: t + 0.01 * t.norm() / t.numel() ** 0.5 * torch.randn(t.shape, generator=g), 50),
        (lambda t, _: t.bfloat16().float(), 60),
    ],
    ids=["noise", "bfloat16"],
)
def test_noise_blurs_the_images(spoil, least):
    observation, truth, world = watched(data=MNIST, model=MLP, federation={"batch_size": 8})
    generator = torch.Generator().manual_seed(3)
    spoilt = {name: spoil(tensor, generator) for name, tensor in observation.update.tensors.items()}
    guess = solve(NAME, sending(observation, spoilt))
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > least
    assert guess.masks is None


def test_a_partial_answer_consists_of_exact_images():
    observation, truth, world = watched(data=MNIST, model=MLP, federation={"batch_size": 8})
    guess = solve(NAME, observation, restarts=3, rounds=1)
    found = int(guess.diagnostics["examples found"])
    assert 1 <= found <= 3
    assert guess.stop_reason == f"found {found} of 8 examples in 1 rounds"
    psnr = sorted(psnr_of(guess, truth, world.data.dataset.spec), reverse=True)
    assert psnr[found - 1] > 100
    assert len(guess.inputs) == len(guess.labels) == found


@pytest.mark.parametrize("size", [4, None])
def test_a_random_gradient_gives_nothing(size):
    observation, _ = toy(dense(64, bias=True), (3, 4, 4), 4)
    guess = solve(NAME, replace(without_information(observation), batch_size=size), rounds=2)
    assert guess.stop_reason.startswith("gave up")
    assert not len(guess.inputs)


def test_unknown_rates_are_tried_and_dropout_in_between_is_reported():
    observation, _, _ = watched(
        data=MNIST, model={**MLP, "width": 128, "dropout": 0.5}, federation={"batch_size": 4}, knows=("batch-size",)
    )
    guess = solve(NAME, observation, rounds=1)
    assert guess.stop_reason.startswith("gave up: no start converged")
    assert not len(guess.inputs)


def test_refuses_with_the_reason():
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 4))
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    cases = {
        "closed-form-linear": toy(dense(16, bias=True), (3, 4, 4), 1)[0],
        "dropout at rate 0.25 lies between": watched(federation={"batch_size": 2})[0],
        "mix units": toy(mixed, (3, 4, 4), 2)[0],
        "no linear layer behind": toy(shallow, (3, 4, 4), 2)[0],
        "no linear layer sees": watched(model={"name": "vit-small"}, federation={"batch_size": 2})[0],
        "3 local steps": replace(toy(dense(16, bias=True), (3, 4, 4), 2)[0], local_steps=3),
    }
    assert_refused(NAME, cases)
