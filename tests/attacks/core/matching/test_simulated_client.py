"""The simulated client's forward pass, beside the client's own with the same masks."""

import torch
from torch import nn

from attacks.core.matching.simulated_client import simulated_client
from tests.attacks.solving import toy


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(16, 4))


def test_under_the_clients_masks_its_loss_is_the_clients() -> None:
    observation, truth = toy(with_dropout(), (2, 2, 2), 3)
    client, batch = simulated_client(observation, observation.sites, True), truth.batches[0]
    loss = client.loss(client.outputs(batch.inputs, truth.masks[0], {}), batch.labels)
    assert float(loss) == observation.update.loss
    assert float(client.loss(client.outputs(batch.inputs, (), {}), batch.labels)) != observation.update.loss


def test_replaced_weights_count_and_the_observed_model_stays_as_it_was() -> None:
    observation, truth = toy(with_dropout(), (2, 2, 2), 3)
    client = simulated_client(observation, observation.sites, False)
    silent = {"4.weight": torch.zeros(4, 16).double(), "4.bias": torch.zeros(4).double()}
    assert not client.outputs(truth.batches[0].inputs, (), silent).any()
    assert client.names == tuple(observation.update.tensors)
    assert observation.model.training
    assert not client.model.training
    assert observation.model.get_submodule("2").inplace
    assert all(parameter.requires_grad for parameter in observation.model.parameters())
