"""The steps are those of torch's Adam."""

import copy

import torch
from torch import nn

from attacks.core.training import NetworkTraining
from fedsim.core import seeding


def test_networks_are_trained_as_by_torch() -> None:
    with seeding.isolate_randomness(0):
        networks = [nn.Linear(3, 4).double(), nn.Linear(4, 1).double()]
    others = copy.deepcopy(networks)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    training = NetworkTraining(networks, 0.01)
    adam = torch.optim.Adam([parameter for network in others for parameter in network.parameters()], lr=0.01)
    for _ in range(20):
        training.descend(networks[1](networks[0](inputs).relu()).square().mean())
        adam.zero_grad()
        others[1](others[0](inputs).relu()).square().mean().backward()
        adam.step()
    for one, other in zip(networks, others, strict=True):
        assert torch.allclose(one.weight, other.weight, atol=1e-10)  # twenty steps of rounding
