"""The first layer as a matrix with its bias as a column, and scales that follow from a bias."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.batch_separation._first_layer import (
    batch_refusal,
    first_layer,
    part_of_batch,
    row_space_behind,
    scale,
    whole_batch,
)
from tests.attacks.solving import network, toy


@pytest.mark.parametrize("bias", [False, True])
def test_weights_and_gradients_are_those_of_the_layer_with_a_column_for_its_bias(bias) -> None:
    observation, truth = toy(network(12, 16, bias=bias), (3, 2, 2), 3)
    first = first_layer(observation)
    assert (first.layer.name, first.has_bias, first.gradient.shape) == ("1", bias, (16, 12 + bias))
    layer = observation.model[1]
    assert torch.equal(first.weight[:, :12], layer.weight.detach())
    assert torch.equal(first.gradient[:, :12], observation.update.tensors["1.weight"])
    if bias:
        assert torch.equal(first.weight[:, 12], layer.bias.detach())
    seen = nn.functional.gelu(layer(truth.batches[0].inputs.flatten(1))).detach()
    span = row_space_behind(observation, first.behind, 3)
    assert span.shape == (3, 16)
    assert torch.allclose(seen - seen @ span.T @ span, torch.zeros_like(seen), atol=1e-9)


@pytest.mark.paper_step("spear", "scale of each input from the bias gradient")
def test_a_bias_shows_scale_and_sign() -> None:
    observation, truth = toy(network(12, 16), (3, 2, 2), 2)
    first = first_layer(observation)
    flat = truth.batches[0].inputs.flatten(1)
    rows = torch.tensor([[-3.0], [0.2]], dtype=torch.float64) * torch.cat([flat, torch.ones(2, 1).double()], 1)
    found, outside = scale(observation, first, rows, torch.ones(2, 16), None)
    assert torch.allclose(found, flat)
    assert not bool(outside.any())


def test_a_whole_batch_gets_masks_and_labels_and_a_part_says_what_it_leaves() -> None:
    observation, truth = toy(network(12, 24, rates=(0.5, 0.25)), (3, 2, 2), 3)
    batch = truth.batches[0]
    guess = whole_batch(replace(observation, labels=None), batch.inputs, (0.0, "nothing"), 1, (), {})
    assert torch.equal(guess.labels, batch.labels)
    assert all(torch.equal(own, mask) for own, mask in zip(guess.masks, truth.masks[0], strict=True))
    assert guess.is_exact
    first = first_layer(observation)
    two = part_of_batch(observation, first, batch.inputs[:2], 3, 1, "stopped", (), {})
    every = part_of_batch(observation, first, batch.inputs, 3, 1, "stopped", (), {})
    assert every.objective < 1e-9  # rounding of double precision
    assert 0.01 < two.objective < 1.0
    assert "2 examples found, 1 are missing" in two.notes


def test_what_cannot_be_separated_says_why() -> None:
    assert batch_refusal(toy(network(12, 16), (3, 2, 2), 3)[0]) is None
    assert "a single example" in (batch_refusal(toy(network(12, 16), (3, 2, 2), 1)[0]) or "")
    convolution = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 4))
    assert "no linear layer sees" in (batch_refusal(toy(convolution, (3, 2, 2), 2)[0]) or "")
    last = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False))
    assert "has no bias, and no linear layer behind it" in (batch_refusal(toy(last, (3, 2, 2), 2)[0]) or "")
