"""Batches of a trained model: losses over many decades, most examples far below the largest."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from attacks.core.client_gradient import client_gradient
from attacks.core.spans import even_rows, even_spectrum, spectrum
from tests.attacks.solving import network, solve, toy

NAME = "sparse-dictionary"
SIZE = 8


def graded(rate, *, decades, bias=True, width=256, seed=0):
    """Return an observation of a gradient in which each example counts less than the one before, and its truth."""
    model = network(48, width, bias=bias, rates=(rate, rate))
    observation, truth = toy(model, (3, 4, 4), SIZE, seed=seed, dtype=torch.float32)
    batch = truth.batches[0]
    weights = torch.logspace(0, -decades, SIZE)

    def loss(outputs, labels):
        return (weights * F.cross_entropy(outputs, labels, reduction="none")).sum()

    tensors = client_gradient(replace(observation, loss=loss), batch.inputs, batch.labels, truth.masks[0])
    update = replace(observation.update, tensors=tensors)
    return replace(observation, update=update, labels=None), truth


def errors(guess, truth):
    """Return the relative error of the nearest guess, of each example."""
    inputs, found = (x.double().flatten(1) for x in (truth.batches[0].inputs, guess.inputs))
    return torch.cdist(inputs, found).min(1).values / inputs.norm(dim=1)


def test_even_rows_show_examples_that_singular_values_hide():
    observation, _ = graded(0.5, decades=9)
    gradient = observation.update.tensors["1.weight"].double()
    assert spectrum(torch.linalg.svdvals(gradient), limit=SIZE).rank < SIZE - 2
    assert even_spectrum(torch.linalg.svdvals(even_rows(gradient)), limit=SIZE).rank == SIZE


@pytest.mark.parametrize("bias", [True, False])
def test_examples_of_tiny_loss_come_back_as_well(bias):
    observation, truth = graded(0.5, decades=7, bias=bias)
    guess = solve(NAME, observation)
    found = errors(guess, truth)
    assert int((found < 1e-3).sum()) == len(guess.inputs) >= SIZE - 1
    nearest = torch.cdist(guess.inputs.flatten(1), truth.batches[0].inputs.flatten(1)).argmin(1)
    told = nearest < SIZE - 1  # the class of the last one lies in the rounding of the first one's gradient
    assert torch.equal(guess.labels[told], truth.batches[0].labels[nearest[told]])


def test_what_drowns_in_rounding_is_missing_and_nothing_wrong_is_returned():
    observation, truth = graded(0.5, decades=14)
    guess = solve(NAME, observation)
    found = errors(guess, truth)
    assert 3 <= len(guess.inputs) < SIZE
    assert int((found < 1e-2).sum()) == len(guess.inputs)
    assert guess.diagnostics["examples found"] == len(guess.inputs)
    assert f"{SIZE - len(guess.inputs)}" in " ".join(guess.notes)
