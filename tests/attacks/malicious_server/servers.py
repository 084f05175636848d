"""What a server sees that may change the model."""

from dataclasses import replace

import torch
from torch import nn

from fedsim.core.types import Observation, ThreatModel, Truth
from tests.attacks.solving import toy

SHAPE = (3, 4, 4)


def observed(
    model: nn.Module, batch_size: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Observation, Truth]:
    """Return a client's gradient on random inputs, as a malicious server sees it."""
    observation, truth = toy(model, SHAPE, batch_size, seed=seed, dtype=dtype)
    return replace(observation, threat=ThreatModel(server="malicious", knows=observation.threat.knows)), truth
