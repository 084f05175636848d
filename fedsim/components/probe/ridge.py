"""ridge: the plain linear probe, a ridge regression of each class on the states.

Idea: a linear map gives a lower bound on a property's information in a state; other probes are compared with it.
Equation: W = argmin |Z W - (Y - mean Y)|^2 + a width |W|^2, Z the states with mean 0 and standard deviation 1, Y
    one-hot; probabilities are the scores Z W + mean Y, clipped at 0 and normalised.
Assumes: states with the class of each.
Leaks: from states, or from a client's update, an attacker infers each property that is linear in them.
Fails: with properties that are not linear in the states, such as XOR of two directions.
Source: Alain, Bengio 2016, arXiv 1610.01644 (linear probes); the penalty is chosen here.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Probe
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors


class RidgeConfig(Config):
    """Settings of ridge."""

    penalty: float = Field(default=1.0, gt=0, description="a, of the weights, times the width of a state")


@final
@component("ridge", summary="probe: linear, fitted in closed form", tier="baseline", related="1610.01644")
class Ridge(Probe[RidgeConfig]):
    """Predicts classes by a linear map."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return `weights` (width, K), `shares` of classes (K,), and `mean` and `scale` of the states.

        Raises:
            NotApplicable: fewer than two classes, non-finite states, or unequal numbers of states and labels.
        """
        if hidden.ndim != 2 or len(hidden) != len(labels) or not len(labels):  # noqa: PLR2004 - (N, width)
            raise NotApplicable(f"states have shape {tuple(hidden.shape)}, expected ({len(labels)}, width).")
        if int(labels.max()) < 1:
            raise NotApplicable("a probe needs examples of at least two classes, found a single class.")
        if not hidden.isfinite().all():
            raise NotApplicable("some states are not finite.")
        states = hidden.double()
        spread = states.std(0, correction=0)
        learned = {"mean": states.mean(0), "scale": torch.where(spread > 0, spread, 1.0)}
        states = (states - learned["mean"]) / learned["scale"]
        wanted = F.one_hot(labels).double()
        kernel = states @ states.T + self.config.penalty * states.shape[1] * torch.eye(len(states), dtype=torch.double)
        weights = states.T @ torch.linalg.solve(kernel, wanted - wanted.mean(0))
        return {**learned, "weights": weights, "shares": wanted.mean(0)}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K)."""
        states = (hidden.double() - learned["mean"]) / learned["scale"]
        scores = (states @ learned["weights"] + learned["shares"]).clamp_min(0)
        return (scores / scores.sum(1, keepdim=True)).to(hidden.dtype)
