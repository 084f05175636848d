"""Training of small networks by an attacker.

`torch.optim` is not used: its first step searches a writable folder, and an isolated attack has none.
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
        """Update the parameters by one Adam step on a loss that depends on every parameter."""
        self._adam.step(self._parameters, torch.autograd.grad(loss, self._parameters), self._rates)
