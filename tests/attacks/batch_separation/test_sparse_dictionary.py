"""Sparse dictionaries of a batch: every example exactly, or a reason."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.batch_separation import sparse_dictionary
from attacks.batch_separation._sparsest import Sparse, search_vectors
from fedsim.core import seeding
from tests.attacks.solving import (
    assert_refused,
    attacked,
    network,
    psnr_of,
    resending,
    sending,
    solve,
    toy,
    without_information,
)
from tests.attacks.tables import census, gradient_of
from tests.attacks.tables import network as two_classes
from tests.federating import watched

NAME = "sparse-dictionary"
MNIST = {"name": "mnist5k", "train": 400, "test": 10}
MLP = {"name": "mlp", "width": 256, "depth": 3}


def dense(width: int, rate: float, *, bias: bool, activation: type[nn.Module] = nn.GELU) -> nn.Module:
    return network(48, width, bias=bias, rates=(rate, rate), activation=activation)


def assert_recovered(guess, truth):
    """Compare as sets: a gradient has no order."""
    batch = truth.batches[0]
    order = torch.cdist(batch.inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], batch.inputs, atol=1e-8, rtol=1e-8)
    assert torch.equal(guess.labels[order], batch.labels)
    assert guess.objective < 1e-12
    assert guess.stop_reason == "all examples separated"
    for found, mask in zip(guess.masks or (), truth.masks[0], strict=True):
        assert torch.equal(found[order], mask)


def first_two(found):
    return Sparse(found.vectors[:2], found.zero_shares[:2])


def once(complete):
    """Answer the first call only, so that the rest stays unknown."""
    calls = []

    def limited(*arguments):
        calls.append(None)
        return complete(*arguments) if len(calls) == 1 else None

    return limited


@settings(max_examples=6, deadline=None)
@given(
    batch_size=st.integers(2, 6),
    rate=st.sampled_from([0.25, 0.5]),
    bias=st.booleans(),
    seed=st.integers(0, 20),
)
def test_recovers_batches_without_labels(batch_size, rate, bias, seed):
    observation, truth = toy(dense(160, rate, bias=bias), (3, 4, 4), batch_size, seed=seed)
    assert_recovered(solve(NAME, replace(observation, labels=None, batch_size=None), restarts=256), truth)


@pytest.mark.parametrize("size", [2, 8])
def test_an_output_layer_of_fewer_classes_than_rows_contradicts_nobody(size):
    chosen = torch.arange(size)
    observation, inputs, labels = gradient_of(two_classes(64, rate=0.5), census(), chosen)
    guess = attacked(NAME, observation)
    order = torch.cdist(inputs, guess.inputs).argmin(1)
    # Rounding of double precision, enlarged by a condition number of D below 1e5.
    torch.testing.assert_close(guess.inputs[order], inputs, atol=1e-8, rtol=0)
    assert torch.equal(guess.labels[order], labels)
    assert guess.is_exact


def test_zeros_of_relu_serve_as_well_as_those_of_dropout():
    observation, truth = toy(dense(256, 0.0, bias=True, activation=nn.ReLU), (3, 4, 4), 6)
    guess = solve(NAME, observation)
    assert guess.objective < 1e-12
    order = torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    ("rate", "size", "bias"),
    [
        (0.5, 8, False),
        pytest.param(0.25, 8, False, marks=pytest.mark.slow),
        pytest.param(0.1, 4, False, marks=pytest.mark.slow),
        pytest.param(0.5, 16, True, marks=pytest.mark.slow),
        pytest.param(0.5, 16, False, marks=pytest.mark.slow),
        pytest.param(0.5, 32, False, marks=pytest.mark.slow),
        pytest.param(0.25, 16, False, marks=pytest.mark.slow),
    ],
)
def test_batches_of_digits_come_back_exactly(rate, size, bias):
    knows = ("batch-size", "dropout-rates", "input-statistics")
    model = {**MLP, "bias": bias, "dropout": rate}
    observation, truth, world = watched(data=MNIST, model=model, federation={"batch_size": size}, knows=knows)
    guess = solve(NAME, observation)
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 100
    assert sorted(guess.labels.tolist()) == sorted(truth.batches[0].labels.tolist())
    assert guess.objective < 1e-9


def test_an_example_without_a_trace_is_missing():
    observation, truth = toy(dense(160, 0.5, bias=True), (3, 4, 4), 4)
    guess = solve(NAME, replace(observation, batch_size=5, labels=None), restarts=256)
    assert guess.inputs.shape[0] == len(guess.labels) == 4
    assert guess.masks is None
    order = torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


def test_it_says_so_when_there_is_nothing_to_find():
    observation, _, _ = watched(data=MNIST, model={**MLP, "dropout": 0.0}, federation={"batch_size": 4})
    guess = solve(NAME, observation, rounds=2, restarts=256)
    assert guess.stop_reason.startswith("gave up: 0 of 4 examples separated")
    assert guess.objective > 0.5
    assert not len(guess.inputs)
    assert guess.masks is None


@pytest.mark.parametrize(("rate", "size"), [(0.1, 12), pytest.param(0.25, 40, marks=pytest.mark.slow)])
def test_incomplete_bases_are_finished_by_the_next_layer(monkeypatch, rate, size):
    """One round of few starts misses examples; the rows of those found are completed and subtracted."""
    completed = []
    original = sparse_dictionary._complete_row

    def counted(*arguments):
        completed.append(original(*arguments))
        return completed[-1]

    monkeypatch.setattr(sparse_dictionary, "_complete_row", counted)
    observation, truth, world = watched(
        data={**MNIST, "train": 600}, model={**MLP, "width": 512, "dropout": rate}, federation={"batch_size": size}
    )
    guess = solve(NAME, observation, restarts=64, rounds=1)
    assert any(row is not None for row in completed)
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 100
    assert guess.objective < 1e-9


def test_a_partial_answer_consists_of_exact_images(monkeypatch):
    monkeypatch.setattr(sparse_dictionary, "search_vectors", lambda *arguments: first_two(search_vectors(*arguments)))
    observation, truth, world = watched(data=MNIST, model={**MLP, "dropout": 0.25}, federation={"batch_size": 6})
    monkeypatch.setattr(sparse_dictionary, "_complete", once(sparse_dictionary._complete))
    guess = solve(NAME, observation, restarts=256)
    assert guess.stop_reason.startswith("separated 2 of 6 examples")
    assert guess.diagnostics["examples found"] == 2
    psnr = sorted(psnr_of(guess, truth, world.data.dataset.spec), reverse=True)
    assert psnr[1] > 100
    assert int(guess.inputs.flatten(1).any(1).sum()) == 2
    assert guess.masks is None
    assert 0 < guess.objective < 1


@pytest.mark.parametrize(
    ("spoil", "least"),
    [
        (lambda t, g: t + 0.01 * t.norm() / t.numel() ** 0.5 * torch.randn(t.shape, generator=g), 40),
        pytest.param(
            lambda t, _: (t * (127 / t.abs().max())).round() * (t.abs().max() / 127), 35, marks=pytest.mark.slow
        ),
        pytest.param(lambda t, _: t.bfloat16().float(), 40, marks=pytest.mark.slow),
    ],
    ids=["noise", "int8", "bfloat16"],
)
@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_a_clean_rank_the_images_are_as_blurred_as_the_noise(spoil, least, bias):
    model = {**MLP, "dropout": 0.5, "bias": bias}
    observation, truth, world = watched(data=MNIST, model=model, federation={"batch_size": 8})
    generator = torch.Generator().manual_seed(3)
    spoilt = {name: spoil(tensor, generator) for name, tensor in observation.update.tensors.items()}
    guess = solve(NAME, sending(observation, spoilt))
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > least
    assert guess.diagnostics["numerical rank"] == 8
    assert guess.diagnostics["noise"] > 1e-4
    assert guess.masks is None


def test_the_rank_is_the_number_of_different_examples_with_a_gradient():
    model = dense(160, 0.0, bias=True, activation=nn.ReLU)
    observation, truth = toy(model, (3, 4, 4), 4)
    batch, twice = truth.batches[0], torch.tensor([0, 1, 2, 3, 3])
    seen = resending(observation, batch.inputs[twice], batch.labels[twice])
    guess = solve(NAME, replace(seen, batch_size=5, labels=None))
    assert guess.diagnostics["numerical rank"] == guess.diagnostics["examples found"] == 4
    order = torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    assert len(order.unique()) == 4
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("size", [4, None])
def test_a_random_gradient_gives_nothing(size):
    observation, _ = toy(dense(64, 0.5, bias=True), (3, 4, 4), 4)
    guess = solve(NAME, replace(without_information(observation), batch_size=size))
    assert guess.stop_reason.startswith("gave up")
    assert not len(guess.inputs)


def test_refuses_with_the_reason():
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(48, 4, bias=False))
    cases = {
        "closed-form-linear": toy(dense(16, 0.5, bias=True), (3, 4, 4), 1)[0],
        "no linear layer behind it": toy(shallow, (3, 4, 4), 2)[0],
        "no linear layer sees": watched(model={"name": "vit-small"}, federation={"batch_size": 2})[0],
        "3 local steps": replace(toy(dense(16, 0.5, bias=True), (3, 4, 4), 2)[0], local_steps=3),
    }
    assert_refused(NAME, cases)


class Residual(nn.Module):
    """Two hidden layers, of which the second adds to the first; dropout is a function behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(48, 384), nn.Linear(384, 384), nn.Linear(384, 10)
        with torch.no_grad():  # so that what the second adds tells the classes
            self.second.weight *= 4
            self.head.weight *= 3

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        first = F.dropout(F.silu(self.first(inputs.flatten(1))), 0.5, self.training)
        return self.head(first + F.dropout(F.silu(self.second(first)), 0.5, self.training))


def test_masks_of_what_is_added_to_a_layer_are_read_so_that_the_labels_are_right():
    with seeding.isolate_randomness(0):
        model = Residual()
    observation, truth = toy(model, (3, 4, 4), 24, classes=10)
    guess = solve(NAME, replace(observation, labels=None), restarts=256)
    assert_recovered(guess, truth)
    assert guess.masks is not None
    assert guess.is_exact


def test_without_these_masks_labels_are_right_but_nothing_is_called_exact(monkeypatch):
    monkeypatch.setattr("attacks.core.masks_by_layer._split_at_widest_gap", torch.ones_like)
    with seeding.isolate_randomness(0):
        model = Residual()
    observation, truth = toy(model, (3, 4, 4), 24, classes=10)
    guess = solve(NAME, replace(observation, labels=None), restarts=256)
    batch = truth.batches[0]
    order = torch.cdist(batch.inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], batch.inputs, atol=1e-8, rtol=1e-8)
    assert torch.equal(guess.labels[order], batch.labels)
    assert not guess.is_exact
