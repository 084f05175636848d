"""adam: scales each step by running means of the gradient and of its square.

Idea: Each weight gets a step of nearly the same size, independent of the scale of its gradient.
Equation: w <- w - s m' / (sqrt(v') + e), bias-corrected running means m' of g and v' of g^2
Assumes: a client; or a server, with the mean update as g: without bias correction this is FedAdam (Reddi et al. 2020,
    arXiv 2003.00295, algorithm 2) with e for tau and v from 0.
Leaks: the first step is the sign of the gradient, so an update of a single step keeps signs and loses magnitudes.
Fails: as a defense, for the same reason.
Source: Kingma, Ba 2015, arXiv 1412.6980, algorithm 1.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.hooks import Optimizer
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors


class AdamConfig(Config):
    """Settings of Adam."""

    learning_rate: float = Field(default=1e-3, gt=0, description="step size")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of g")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of g^2")
    epsilon: float = Field(default=1e-8, gt=0)
    bias_correction: bool = Field(default=True, description="correct for both means starting at 0")


@final
@component(
    "adam",
    summary="Adam, with bias correction or without",
    tier="core",
    paper="1412.6980",
    fidelity="reproduction",
    paper_steps=(("running means with bias correction", "Adam.step"),),
)
class Adam(Optimizer[AdamConfig]):
    """Adam with a state that lasts for a local training."""

    @property
    def learning_rate(self) -> float:
        """Step size, in units of weight."""
        return self.config.learning_rate

    @torch.no_grad()
    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Change `parameters` in place; `state` holds the step count and two running means per parameter."""
        c = self.config
        state["steps"] = state.get("steps", torch.tensor(0)) + 1
        count = int(state["steps"])
        for name, parameter in parameters.items():
            g = gradient[name]
            mean = state[f"mean {name}"] = c.beta1 * state.get(f"mean {name}", 0.0) + (1 - c.beta1) * g
            square = state[f"square {name}"] = c.beta2 * state.get(f"square {name}", 0.0) + (1 - c.beta2) * g * g
            if c.bias_correction:
                mean, square = mean / (1 - c.beta1**count), square / (1 - c.beta2**count)
            parameter.sub_(mean / (square.sqrt() + c.epsilon), alpha=c.learning_rate)
