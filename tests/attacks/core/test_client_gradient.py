"""The client's gradient at the truth is the upload."""

import torch
from torch import nn

from attacks.core.client_gradient import client_gradient
from tests.attacks.solving import toy


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))


def test_at_the_truth_it_is_the_upload() -> None:
    observation, truth = toy(network(), (1, 3, 4), 3)
    (batch,), (masks,) = truth.batches, truth.masks
    gradient = client_gradient(observation, batch.inputs, batch.labels, masks)
    assert list(gradient) == list(observation.update.tensors)
    for name, tensor in observation.update.tensors.items():
        assert torch.equal(gradient[name], tensor)


def test_inputs_and_masks_of_another_precision_are_taken_in_the_models() -> None:
    observation, truth = toy(network(), (1, 3, 4), 3)
    (batch,), (masks,) = truth.batches, truth.masks
    inputs = batch.inputs.float()
    gradient = client_gradient(observation, inputs, batch.labels, tuple(mask.float() for mask in masks))
    expected = client_gradient(observation, inputs.double(), batch.labels, masks)
    assert all(torch.equal(gradient[name], expected[name]) for name in expected)


def test_only_the_named_parameters_are_asked_for() -> None:
    observation, truth = toy(network(), (1, 3, 4), 3)
    (batch,), (masks,) = truth.batches, truth.masks
    gradient = client_gradient(observation, batch.inputs, batch.labels, masks, ["4.bias"])
    assert list(gradient) == ["4.bias"]
    with torch.no_grad():
        again = client_gradient(observation, batch.inputs, batch.labels, masks, ["4.bias"])
    assert torch.equal(gradient["4.bias"], again["4.bias"])
