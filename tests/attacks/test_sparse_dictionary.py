from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks._sparsest import nothing_found, searched
from fedsim import seeding
from fedsim.errors import NotApplicable

NAME = "sparse-dictionary"
MNIST = {"name": "mnist5k", "train": 400, "test": 10}
MLP = {"name": "mlp", "width": 512, "depth": 3}


def dense(width: int, rate: float, *, bias: bool, activation: type[nn.Module] = nn.GELU) -> nn.Module:
    with seeding.contained(2):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(48, width, bias=bias),
            activation(),
            nn.Dropout(rate),
            nn.Linear(width, width, bias=bias),
            activation(),
            nn.Dropout(rate),
            nn.Linear(width, 4, bias=bias),
        )


def solve(attack_named, observation, seed=0, **config):
    return attack_named(NAME, **config)(observation, torch.Generator().manual_seed(seed))


def assert_recovered(guess, truth):
    """Compare as sets: a gradient has no order."""
    batch = truth.batches[0]
    order = torch.cdist(batch.inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], batch.inputs, atol=1e-8, rtol=1e-8)
    assert torch.equal(guess.labels[order], batch.labels)
    assert guess.objective < 1e-12
    assert guess.stopped == "all examples separated"
    for found, mask in zip(guess.masks or (), truth.masks[0], strict=True):
        assert torch.equal(found[order], mask)


@settings(max_examples=6, deadline=None)
@given(
    batch_size=st.integers(2, 6),
    rate=st.sampled_from([0.25, 0.5]),
    bias=st.booleans(),
    seed=st.integers(0, 20),
)
def test_recovers_batches_without_labels(toy, attack_named, batch_size, rate, bias, seed):
    observation, truth = toy(dense(160, rate, bias=bias), (3, 4, 4), batch_size, seed=seed)
    assert_recovered(solve(attack_named, replace(observation, labels=None), starts=256), truth)


def test_zeros_of_relu_serve_as_well_as_those_of_dropout(toy, attack_named):
    observation, truth = toy(dense(256, 0.0, bias=True, activation=nn.ReLU), (3, 4, 4), 6)
    guess = solve(attack_named, observation)
    assert guess.objective < 1e-12
    order = torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    ("rate", "size", "bias"),
    [
        (0.5, 8, False),
        (0.25, 8, False),
        (0.1, 4, False),
        (0.5, 16, True),
        (0.5, 16, False),
        (0.5, 32, False),
        (0.25, 16, False),
    ],
)
def test_batches_of_digits_come_back_exactly(watched, attack_named, psnr_of, rate, size, bias):
    knows = ("batch-size", "dropout-rates", "input-statistics")
    model = {**MLP, "bias": bias, "dropout": rate}
    observation, truth, world = watched(data=MNIST, model=model, federation={"batch_size": size}, knows=knows)
    guess = solve(attack_named, observation)
    assert min(psnr_of(guess, truth, world.dataset.spec)) > 100
    assert sorted(guess.labels.tolist()) == sorted(truth.batches[0].labels.tolist())
    assert guess.objective < 1e-9


def test_photographs_come_back_exactly(watched, attack_named, psnr_of):
    observation, truth, world = watched(
        data={"name": "foolbox-samples", "collection": "cifar10"},
        model={**MLP, "dropout": 0.5},
        federation={"batch_size": 8, "clients": 2},
    )
    assert min(psnr_of(solve(attack_named, observation), truth, world.dataset.spec)) > 100


def test_the_batch_size_is_read_from_the_rank(toy, attack_named):
    observation, truth = toy(dense(160, 0.5, bias=True), (3, 4, 4), 5)
    unknown = replace(observation, batch_size=None, labels=None)
    guess = solve(attack_named, unknown, starts=256)
    assert_recovered(guess, truth)


def test_an_example_without_a_trace_stays_grey(toy, attack_named):
    observation, truth = toy(dense(160, 0.5, bias=True), (3, 4, 4), 4)
    guess = solve(attack_named, replace(observation, batch_size=5, labels=None), starts=256)
    assert guess.inputs.shape[0] == len(guess.labels) == 5
    assert not guess.inputs[-1].any()
    assert guess.masks is None
    order = torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


def test_permuting_the_batch_and_scaling_the_loss_change_nothing(toy, attack_named):
    observation, truth = toy(dense(160, 0.5, bias=False), (3, 4, 4), 4)
    scaled = {name: -3.0 * tensor for name, tensor in observation.update.tensors.items()}
    guess = solve(attack_named, replace(observation, update=replace(observation.update, tensors=scaled)), starts=256)
    order = torch.cdist(truth.batches[0].inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
    torch.testing.assert_close(guess.inputs[order], truth.batches[0].inputs, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    ("rate", "defenses", "reason"),
    [
        (0.0, [], "0 of 4 examples stand out in 2 rounds"),
        (0.5, [{"name": "gradient-noise", "scale": 1e-3}], "exceeds the batch size 4"),
    ],
)
def test_it_says_so_when_there_is_nothing_to_find(watched, attack_named, rate, defenses, reason):
    model = {**MLP, "dropout": rate}
    observation, _, _ = watched(data=MNIST, model=model, federation={"batch_size": 4}, defenses=defenses)
    guess = solve(attack_named, observation, rounds=2, starts=256)
    assert reason in guess.stopped
    assert guess.objective > 0.5
    assert not guess.inputs.any()
    assert guess.masks is None


@pytest.mark.parametrize("size", [4, None])
def test_a_random_gradient_gives_grey(toy, attack_named, without_information, size):
    observation, _ = toy(dense(64, 0.5, bias=True), (3, 4, 4), 4)
    guess = solve(attack_named, replace(without_information(observation), batch_size=size))
    assert guess.stopped.startswith("gave up")
    assert not guess.inputs.any()


def test_refuses_with_the_reason(toy, watched, attack_named):
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(48, 4, bias=False))
    cases = {
        "closed-form-linear": toy(dense(16, 0.5, bias=True), (3, 4, 4), 1)[0],
        "no linear layer behind it": toy(shallow, (3, 4, 4), 2)[0],
        "no linear layer sees": watched(model={"name": "vit-small"}, federation={"batch_size": 2})[0],
        "3 local steps": replace(toy(dense(16, 0.5, bias=True), (3, 4, 4), 2)[0], local_steps=3),
    }
    for reason, observation in cases.items():
        with pytest.raises(NotApplicable, match=reason):
            solve(attack_named, observation)


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 8), st.integers(0, 100))
def test_sparsest_vectors_span_a_sparse_dictionary_and_not_a_dense_one(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    dense_columns = torch.randn((256, rank), generator=generator, dtype=torch.float64)
    sparse_columns = dense_columns * torch.rand((256, rank), generator=generator).gt(0.5)
    sparse_columns = sparse_columns[sparse_columns.any(1)]
    basis = torch.linalg.svd(sparse_columns, full_matrices=False).U
    found = searched(basis, nothing_found(rank), 256, generator)
    columns = nn.functional.normalize(basis @ found.vectors.T, dim=0)
    agreement = (columns.T @ nn.functional.normalize(sparse_columns, dim=0)).abs().max(0).values
    assert len(found.vectors) == rank
    assert float(agreement.min()) > 1 - 1e-8
    nothing = searched(torch.linalg.svd(dense_columns, full_matrices=False).U, nothing_found(rank), 256, generator)
    assert len(nothing.vectors) == 0
