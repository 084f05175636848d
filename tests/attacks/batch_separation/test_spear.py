import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.batch_separation.spear import expected_draws, least_zero_share, live_zero_share, null_vectors
from tests.attacks.solving import assert_refused, network, psnr_of, solve, toy, without_information
from tests.federating import watched

NAME = "spear"


def dense(rate: float, *, bias: bool = True, activation: type[nn.Module] = nn.ReLU, width: int = 120) -> nn.Module:
    return network(64, width, bias=bias, rates=(rate, None), activation=activation)


def largest_error(guess, truth) -> float:
    """Compare as sets: a gradient has no order."""
    images = truth.batches[0].inputs
    order = torch.cdist(images.flatten(1), guess.inputs.flatten(1)).argmin(1)
    assert order.unique().shape == order.shape
    return float((guess.inputs[order] - images).abs().max())


@pytest.mark.paper_step("spear", "greedy choice of independent directions with most zeros")
@pytest.mark.paper_step("spear", "score: signs of pre-activations against zeros of the gradient")
@pytest.mark.paper_step("spear", "exchange of directions while the score grows")
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_batches_come_back_exactly_from_4000_draws(size, rate):
    observation, truth = toy(dense(rate), (1, 8, 8), size)
    guess = solve(NAME, replace(observation, labels=None), draws=4000)
    assert largest_error(guess, truth) < 1e-8
    assert sorted(guess.labels.tolist()) == sorted(truth.batches[0].labels.tolist())
    assert guess.stop_reason == "all examples separated"
    assert guess.diagnostics["sign agreement"] == 1.0
    assert guess.diagnostics["draws"] <= 4096


@settings(max_examples=8, deadline=None)
@given(size=st.integers(2, 6), bias=st.booleans(), seed=st.integers(0, 30))
def test_zeros_of_dropout_serve_as_well_behind_any_activation(size, bias, seed):
    observation, truth = toy(dense(0.5, bias=bias, activation=nn.GELU), (1, 8, 8), size, seed=seed)
    guess = solve(NAME, replace(observation, batch_size=None), draws=4000)
    assert largest_error(guess, truth) < 1e-8
    assert guess.objective < 1e-9
    assert "sign agreement" not in guess.diagnostics


def test_relu_without_bias_leaves_the_scale_a_guess():
    observation, truth = toy(dense(0.0, bias=False), (1, 8, 8), 3)
    guess = solve(NAME, observation, draws=4000)
    images = nn.functional.normalize(truth.batches[0].inputs.flatten(1))
    agreement = (images @ nn.functional.normalize(guess.inputs.flatten(1)).T).max(1).values
    assert float(agreement.min()) > 1 - 1e-9
    assert guess.stop_reason == "separated, but the gradient is not matched"


@pytest.mark.parametrize(("size", "rate"), [(2, 0.25), (8, 0.5)])
def test_digits_in_single_precision(size, rate):
    model = {"name": "mlp", "width": 256, "depth": 2, "bias": True, "dropout": rate}
    observation, truth, world = watched(model=model, federation={"batch_size": size}, knows=("batch-size",))
    guess = solve(NAME, replace(observation, labels=None))
    assert min(psnr_of(guess, truth, world.data.dataset.spec)) > 100


def test_it_says_so_when_it_cannot_succeed():
    cases = {
        "gave up before drawing: about 1e\\+06 draws are expected for 20": toy(dense(0.0), (1, 8, 8), 20)[0],
        "about inf draws are expected": toy(dense(0.0, activation=nn.GELU), (1, 8, 8), 3)[0],
        "exceeds the batch size 4": without_information(toy(dense(0.5), (1, 8, 8), 4)[0]),
        "120 units cannot separate 40 examples": toy(dense(0.0), (1, 8, 8), 40)[0],
    }
    for reason, observation in cases.items():
        guess = solve(NAME, observation)
        assert re.search(reason, guess.stop_reason)
        assert not len(guess.inputs)
        assert guess.masks is None


def test_too_few_draws_end_with_nothing():
    observation, _ = toy(dense(0.0), (1, 8, 8), 14)
    guess = solve(NAME, observation, draws=20_500)
    assert re.match(r"gave up: \d+ of 14 examples separated in 21504 draws", guess.stop_reason)
    assert not len(guess.inputs)
    assert guess.diagnostics["draws"] == 21504


def test_refuses_with_the_reason():
    cases = {
        "closed-form-linear": toy(dense(0.5), (1, 8, 8), 1)[0],
        "no linear layer sees": watched(model={"name": "convnet"}, federation={"batch_size": 2})[0],
        "3 local steps": replace(toy(dense(0.5), (1, 8, 8), 2)[0], local_steps=3),
    }
    assert_refused(NAME, cases)


@pytest.mark.paper_step("spear", "threshold on the share of zeros")
@given(rank=st.integers(2, 8), zeros=st.floats(0.05, 0.9))
def test_shares_of_zeros_agree_with_counting(rank, zeros):
    """Sum over all patterns of zeros of B columns, given that not all are zero."""
    patterns = torch.tensor([[i >> c & 1 for c in range(rank)] for i in range(1 << rank)])
    weights = torch.where(patterns.bool(), zeros, 1 - zeros).double().prod(1)
    live = ~patterns.bool().all(1)
    one, two = (
        float(weights[live & chosen].sum() / weights[live].sum())
        for chosen in (patterns[:, 0].bool(), patterns[:, :2].bool().all(1))
    )
    assert live_zero_share(zeros, rank) == pytest.approx(one, abs=1e-6)
    assert live_zero_share(zeros, rank, 2) == pytest.approx(two, abs=1e-6)
    assert two < least_zero_share(zeros, rank) < one


@pytest.mark.paper_step("spear", "expected number of draws")
def test_the_threshold_of_two_examples_lies_below_a_third():
    assert live_zero_share(0.5, 2) == pytest.approx(1 / 3)
    assert least_zero_share(0.5, 2) == pytest.approx(1 / 12)
    assert expected_draws(0.0, 3) == math.inf
    assert expected_draws(0.5, 1) == 1.0


@pytest.mark.paper_step("spear", "candidate directions: null vectors of drawn rows")
@settings(max_examples=10, deadline=None)
@given(rank=st.integers(2, 6), seed=st.integers(0, 100))
def test_null_vectors_are_columns_of_a_sparse_factor(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn((200, rank), generator=generator, dtype=torch.float64)
    columns = columns * torch.rand((200, rank), generator=generator).gt(0.5)
    columns = columns[columns.any(1)]
    basis = torch.linalg.svd(columns, full_matrices=False).U
    least = live_zero_share(0.5, rank, 2) + 0.15
    drawn = null_vectors(basis, 2000, 1e-9, least, generator)
    agreement = nn.functional.normalize(basis @ drawn.T, dim=0).T @ nn.functional.normalize(columns, dim=0)
    assert float(agreement.abs().max(1).values.min()) > 1 - 1e-8
    is_sparse = columns.eq(0).double().mean(0) >= least  # of few seeds a column has hardly more zeros than two together
    assert set(agreement.abs().argmax(1).tolist()) == set(is_sparse.nonzero().flatten().tolist())
