"""sgd: steps against the gradient, with momentum (stochastic gradient descent).

Idea: Momentum averages the gradients of several steps.
Equation: v <- m v + g, w <- w - s v
Assumes: nothing.
Leaks: a single step without momentum sends the gradient itself, times the learning rate.
Fails: as a defense.
Source: Robbins, Monro 1951; momentum as in Sutskever et al. 2013.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.hooks import Optimizer
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors


class SgdConfig(Config):
    """Settings of SGD."""

    learning_rate: float = Field(default=0.1, gt=0, description="step size")
    momentum: float = Field(default=0.0, ge=0, lt=1)


@final
@component("sgd", summary="stochastic gradient descent, with momentum", tier="core")
class Sgd(Optimizer[SgdConfig]):
    """SGD without `torch.optim`, because its import slows every new process."""

    @property
    def learning_rate(self) -> float:
        """Step size, in units of weight per gradient."""
        return self.config.learning_rate

    @torch.no_grad()
    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Change `parameters` in place; `state` holds a velocity per parameter."""
        for name, parameter in parameters.items():
            direction = gradient[name]
            if self.config.momentum:
                direction = state[name] = self.config.momentum * state.get(name, 0.0) + direction
            parameter.sub_(direction, alpha=self.config.learning_rate)
