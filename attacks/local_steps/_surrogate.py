"""The surrogate of several local steps: one gradient at a point between the received and the trained weights.

Linear: theta(a) = theta_0 - a D. Quadratic, a Bezier curve with a control point c = (theta_0 + theta_T) / 2 - u:
theta(a) = (1 - a)^2 theta_0 + 2 a (1 - a) c + a^2 theta_T = theta_0 - a D - 2 a (1 - a) u. Both a and u are unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from attacks.gradient_matching._comparison import ExplicitGradients, Gradients, Setting, squared_norms
from attacks.gradient_matching._unknowns import Masking
from attacks.local_steps._multistep import as_gradient
from fedsim.core.gradients import gradient_of
from fedsim.core.types import Masks, Observation

Path = Literal["linear", "quadratic"]


class PathMasking:
    """The place on the path as unknowns, before another masking's: a, then u in units of D's root mean square."""

    draws = 1

    def __init__(self, inner: Masking, path: Path, first: float, bend_weight: float, change: Sequence[Tensor]) -> None:
        """Start at the straight line.

        Args:
            inner: the dropout masks.
            path: linear or quadratic; linear has no u.
            first: start of a.
            bend_weight: weight of |u|^2 / |D|^2.
            change: D, tensor by tensor.
        """
        self._inner = inner
        self._first = first
        self._bend_weight = bend_weight
        self._scales = [mean_square(tensor) for tensor in change] if path == "quadratic" else []
        self._shapes = [tensor.shape for tensor in change] if path == "quadratic" else []
        self._total = sum(float(tensor.double().square().sum()) for tensor in change)

    @property
    def own(self) -> int:
        """The number of variables of the path."""
        return 1 + len(self._shapes)

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start of a, a zero u, and the start of the masks."""
        place = torch.tensor(self._first)
        return (place, *(torch.zeros(shape) for shape in self._shapes), *self._inner.first(generator))

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Return the path's variables unchanged, then the masks."""
        inner = self._inner.masks(variables[self.own :], victims, generators, done)
        return (*variables[: self.own], *inner)

    def prior(self, variables: Masks) -> Tensor | float:
        """Return the masks' prior and the weighted |u|^2 / |D|^2, shape (R,)."""
        prior = self._inner.prior(variables[self.own :])
        for bend, scale in zip(variables[1 : self.own], self._scales, strict=True):
            prior = prior + self._bend_weight * scale / self._total * bend.square().flatten(1).sum(1)
        return prior

    @torch.no_grad()
    def project(self, variables: Masks) -> None:
        """Keep a in [0, 1], and masks in their range."""
        variables[0].clamp_(0.0, 1.0)
        self._inner.project(variables[self.own :])


class SurrogateComparison:
    """Gradients at theta(a), one row after the other."""

    name = "surrogate"

    def __init__(self, setting: Setting, observations: Sequence[Observation], path: Path) -> None:
        """Keep the changes of the weights, and the target of the match in units of one gradient."""
        self._setting = setting
        self._bends = len(setting.names) if path == "quadratic" else 0
        self.like = next(iter(setting.parameters.values()))
        device = self.like.device
        self._changes = [[o.update.tensors[n].to(device) for n in setting.names] for o in observations]
        mean = [as_gradient(observation).update.tensors for observation in observations]
        self._targets = [[tensors[name].to(device) for name in setting.names] for tensors in mean]
        self._norms = squared_norms(self._targets)

    def gradients(self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int]) -> Gradients:
        """Compute each row's gradient explicitly, differentiable also in its place on the path.

        Args:
            inputs: shape (R, N, *shape).
            masks: variables of `PathMasking`, then the dropout masks of N examples.
            labels: shape (R, N), or probabilities.
            victims: index of the victim of each row.
        """
        rows = [
            self._gradient(inputs[row], tuple(mask[row] for mask in masks), labels[row], self._changes[victim])
            for row, victim in enumerate(victims)
        ]
        return ExplicitGradients(rows, [self._targets[victim] for victim in victims], self._norms[list(victims)])

    def _gradient(self, inputs: Tensor, masks: Masks, labels: Tensor, change: list[Tensor]) -> tuple[Tensor, ...]:
        place, bends, own = masks[0], masks[1 : 1 + self._bends], masks[1 + self._bends :]
        moved = [place * tensor for tensor in change]
        if bends:
            height = 2.0 * place * (1.0 - place)
            scaled = (bend * mean_square(tensor) ** 0.5 for bend, tensor in zip(bends, change, strict=True))
            moved = [line + height * bend for line, bend in zip(moved, scaled, strict=True)]
        received = self._setting.parameters.items()
        weights = {name: (p - step).requires_grad_() for (name, p), step in zip(received, moved, strict=True)}
        loss = self._setting.loss(self._setting.outputs(inputs, own, weights), labels)
        return tuple(gradient_of(loss, weights, create_graph=True).values())


def mean_square(tensor: Tensor) -> float:
    """Return the mean of the squares."""
    return float(tensor.double().square().mean())
