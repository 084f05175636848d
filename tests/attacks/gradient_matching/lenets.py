"""A small LeNet with a second derivative, and the squared distance of its gradient from an observed one."""

import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import seeding
from fedsim.core.types import Observation, Reconstruction


def squared_distance(observation: Observation, found: Reconstruction) -> float:
    """|g - g*|^2 at a guess."""
    loss = F.cross_entropy(observation.model(found.inputs), found.labels)
    gradients = torch.autograd.grad(loss, list(observation.model.parameters()))
    pairs = zip(gradients, observation.update.tensors.values(), strict=True)
    return sum(float((own - seen).square().sum()) for own, seen in pairs)


def sigmoid_lenet(dropout: float = 0.0, activation: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    """Strides instead of pooling, weights from a wide uniform distribution, as in DLG's experiments."""
    with seeding.isolate_randomness(2):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, padding=1),
            activation(),
            nn.Conv2d(6, 6, 3, 1, padding=1),
            activation(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(54, 4),
        )
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model
