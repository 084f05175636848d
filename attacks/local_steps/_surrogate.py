"""The surrogate of several local steps: one gradient at a point between the received and the trained weights.

Linear: theta(a) = theta_0 - a D. Quadratic, a Bezier curve with a control point c = (theta_0 + theta_T) / 2 - u:
theta(a) = (1 - a)^2 theta_0 + 2 a (1 - a) c + a^2 theta_T = theta_0 - a D - 2 a (1 - a) u. Both a and u are unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.core.matching.comparison import ExplicitGradients, Gradients, squared_norms
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Block, Bounded, Values, of_row
from attacks.core.mean_gradient import as_gradient
from fedsim.core.gradients import gradient_of
from fedsim.core.types import Masks, Observation, Tensors

Path = Literal["linear", "quadratic"]
_PLACE = "place on the path"


@dataclass(frozen=True)
class Bend(Block):
    """The part of u that belongs to one tensor, in units of the root mean square of its D; straight at first.

    Attributes:
        shape: of the tensor.
        weight: of |u|^2 in these units.
    """

    shape: tuple[int, ...] = ()
    weight: float = 0.0

    def first(self, generator: torch.Generator) -> Masks:
        """Return zeros."""
        return (torch.zeros(self.shape),)

    def prior(self, values: Masks) -> Tensor | float:
        """Return the weighted |u|^2, shape (R,)."""
        return self.weight * values[0].square().flatten(1).sum(1)


def on_the_path(place: float, rate: float) -> Block:
    """Return a, an unknown in [0, 1] that starts at `place`."""
    return Bounded(_PLACE, rate, (torch.tensor(place),))


def bends(change: Tensors, weight: float, rate: float) -> tuple[Block, ...]:
    """Return u, a block a tensor of the change D; its prior is weight |u|^2 / |D|^2."""
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


class SurrogateComparison:
    """Gradients at theta(a), one row after the other."""

    name = "surrogate"

    def __init__(self, client: SimulatedClient, observations: Sequence[Observation], path: Path) -> None:
        """Keep the changes of the weights, and the target of the match in units of one gradient."""
        self._client = client
        self._bends = [bend_of(name) for name in client.names] if path == "quadratic" else []
        self.like = next(iter(client.parameters.values()))
        device = self.like.device
        self._changes = [[o.update.tensors[n].to(device) for n in client.names] for o in observations]
        mean = [as_gradient(observation).update.tensors for observation in observations]
        self._targets = [[tensors[name].to(device) for name in client.names] for tensors in mean]
        self._norms = squared_norms(self._targets)

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], others: Values = NOTHING
    ) -> Gradients:
        """Compute each row's gradient explicitly, differentiable also in its place on the path.

        Args:
            inputs: shape (R, N, *shape).
            masks: of N examples.
            labels: shape (R, N), or probabilities.
            victims: index of the victim of each row.
            others: a and u.
        """
        rows = [
            self._gradient(
                inputs[row],
                tuple(mask[row] for mask in masks),
                labels[row],
                self._changes[victim],
                of_row(others, row),
            )
            for row, victim in enumerate(victims)
        ]
        return ExplicitGradients(rows, [self._targets[victim] for victim in victims], self._norms[list(victims)])

    def _gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, change: list[Tensor], path: Values
    ) -> tuple[Tensor, ...]:
        place, bends = place_of(path), [path[name][0] for name in self._bends]
        moved = [place * tensor for tensor in change]
        if bends:
            height = 2.0 * place * (1.0 - place)
            scaled = (bend * mean_square(tensor) ** 0.5 for bend, tensor in zip(bends, change, strict=True))
            moved = [line + height * bend for line, bend in zip(moved, scaled, strict=True)]
        received = self._client.parameters.items()
        weights = {name: (p - step).requires_grad_() for (name, p), step in zip(received, moved, strict=True)}
        loss = self._client.loss(self._client.outputs(inputs, masks, weights), labels)
        return tuple(gradient_of(loss, weights, create_graph=True).values())


def mean_square(tensor: Tensor) -> float:
    """Return the mean of the squares."""
    return float(tensor.double().square().mean())
