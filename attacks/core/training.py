"""Training small networks of an attacker's own.

Not by `torch.optim`: its first step looks for a folder to write to, and an isolated attack has none.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from attacks.core.matching.optimizers import RowAdam


class NetworkTraining:
    """Adam on the parameters of networks."""

    def __init__(self, networks: Iterable[nn.Module], rate: float) -> None:
        """Train these networks at one step size."""
        self._parameters = [parameter for network in networks for parameter in network.parameters()]
        self._rates = [torch.tensor([rate], dtype=torch.double)] * len(self._parameters)
        self._adam = RowAdam(self._parameters)

    def descend(self, loss: Tensor) -> None:
        """Take one step down a loss that depends on every parameter."""
        self._adam.step(self._parameters, torch.autograd.grad(loss, self._parameters), self._rates)
