"""Surrogate of several local steps: a single gradient at a point between the received and the trained weights.

Linear: theta(a) = theta_0 - a D. Quadratic, a Bezier curve with a control point c = (theta_0 + theta_T) / 2 - u:
theta(a) = (1 - a)^2 theta_0 + 2 a (1 - a) c + a^2 theta_T = theta_0 - a D - 2 a (1 - a) u. Both a and u are unknowns.

The surrogate is a simulated client with unknowns, not a gradient distance: it sets the weights at which a gradient is
computed. It therefore works with any distance and any priors, by the settings of `sme`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attacks.core.defense_facts import PLAIN
from attacks.core.matching.comparison import RowComparison
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import Block, Bounded, Values
from attacks.core.mean_gradient import as_gradient
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.types import Masks, Observation, Tensors

Path = Literal["linear", "quadratic"]
_PLACE = "place on the path"


@dataclass(frozen=True)
class Bend(Block):
    """The part of u for one tensor, in units of the root mean square of the tensor's D; initially zero.

    Attributes:
        shape: shape of the tensor.
        weight: weight of |u|^2 in these units.
    """

    shape: tuple[int, ...] = ()
    weight: float = 0.0

    def first(self, generator: torch.Generator) -> Masks:
        """Return zeros."""
        return (torch.zeros(self.shape),)

    def prior(self, values: Masks) -> Tensor | float:
        """Return the weighted |u|^2, shape (R,)."""
        return self.weight * values[0].square().flatten(1).sum(1)


def make_path_unknown(place: float, rate: float) -> Block:
    """Return a, an unknown in [0, 1] that starts at `place`."""
    return Bounded(_PLACE, rate, (torch.tensor(place),))


def bends(change: Tensors, weight: float, rate: float) -> tuple[Block, ...]:
    """Return u, a block for each tensor of the weight delta D; its prior is weight |u|^2 / |D|^2."""
    total = sum(float(tensor.double().square().sum()) for tensor in change.values())
    return tuple(
        Bend(bend_of(name), rate, tuple(tensor.shape), weight * mean_square(tensor) / total)
        for name, tensor in change.items()
    )


def bend_of(name: str) -> str:
    """Return the name of the block that bends the path of a tensor."""
    return f"bend of {name}"


def place_of(values: Values) -> Tensor:
    """Return a."""
    return values[_PLACE][0]


class SurrogateComparison(RowComparison):
    """Compares gradients at theta(a), in units of a single gradient; the unknowns of the path are a and u."""

    name = "surrogate"

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation], path: Path) -> None:
        """Keep the weight deltas. Gradients are compared whole, without simulating the defense's transformation."""
        mean = [as_gradient(observation).update.tensors for observation in observations]
        super().__init__(replace(client, wire=PLAIN), mean)
        self._bends = [bend_of(name) for name in client.names] if path == "quadratic" else []
        device = self.like.device
        self._changes = [[o.update.tensors[n].to(device) for n in client.names] for o in observations]

    def gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values, victim: int
    ) -> tuple[Tensor, ...]:
        """Return the gradient at the point on the path, differentiable in the point too."""
        change, place = self._changes[victim], place_of(variables)
        moved = [place * tensor for tensor in change]
        if self._bends:
            height = 2.0 * place * (1.0 - place)
            bends = (
                variables[name][0] * mean_square(tensor) ** 0.5
                for name, tensor in zip(self._bends, change, strict=True)
            )
            moved = [line + height * bend for line, bend in zip(moved, bends, strict=True)]
        received = self.client.parameters.items()
        weights = {name: (p - step).requires_grad_() for (name, p), step in zip(received, moved, strict=True)}
        loss = self.client.loss(self.client.outputs(inputs, masks, weights), labels)
        return tuple(gradient_of(loss, weights, create_graph=True).values())


def mean_square(tensor: Tensor) -> float:
    """Return the mean of the squares."""
    return float(tensor.double().square().mean())
