"""The equations g(x) = g* of an update, weighted, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.client_gradient import client_gradient
from attacks.core.defense_facts import sends_part
from attacks.core.mean_gradient import gradient_weight
from attacks.core.noise_level import stated_levels
from attacks.core.tolerances import TINY
from attacks.second_order._client import Client
from attacks.second_order._derivatives import push_all_forward
from attacks.second_order._layout import UnknownsLayout, UnknownsPart
from fedsim.core.time_budget import check_deadline
from fedsim.core.types import Observation

_SURE = 5.0  # standard deviations
_STEPS = 4.0  # machine epsilons of rounding: error of the sums of an entry
_UNSTABLE = 1e-5  # relative rounding above which a model is unstable and no solution counts as exact
_FINEST = 1e-12  # relative residual that products in double precision surely reach
_COLUMNS = 64  # of the Jacobian at once; more columns do not fit the caches of a processor
_SEPARATE = 1e-10  # relative to the gradient's norm: far above float64 rounding, far below interaction of examples


@dataclass(frozen=True)
class Linearisation:
    """The equations at one point.

    Attributes:
        residual: weighted g* - g(x), shape (P,).
        forward: maps a change v of x (n,) to the change J v of the weighted gradient (P,).
        backward: maps weights w of the equations (P,) to J^T w (n,).
    """

    residual: Tensor
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], Tensor]


class Equations:
    """Weighted equations of an update for unknown examples and masks.

    Without noise each tensor is divided by its norm, so that all tensors have equal weight. With noise of a declared
    distribution they are divided by its standard deviation, and the prior of the unknowns is added: a solution is then
    the maximum a posteriori estimate.

    Attributes:
        unknowns: layout of the unknowns.
        count: number of equations P.
        tensors: number of tensors.
        is_noisy: whether noise is declared.
        expected: objective at the ground truth, caused by rounding alone or by noise.
        tolerable: the same with rounding measured in the client's precision, which is larger in deep models; further
            steps still refine the images, until no step lowers the objective.
        parts: the examples, one per part if their gradients are additive.
        prior_mean: prior mean of the unknowns, shape (n,).
        prior_precision: prior precision of the unknowns, shape (n,); 0 without noise.
    """

    def __init__(self, observation: Observation, unknowns: UnknownsLayout, labels: Tensor) -> None:
        """Weight the equations, and omit equations of entries that were not sent."""
        self.unknowns, self._client = unknowns, Client(observation)
        device = self._client.device
        weight = gradient_weight(observation)
        observed = {name: tensor.double() / weight for name, tensor in observation.update.tensors.items()}
        levels = stated_levels(observation, observed)
        self.is_noisy, self.tensors = levels is not None, len(observed)
        scales = levels or [max(float(tensor.norm()), TINY) for tensor in observed.values()]
        weights = torch.cat(
            [
                torch.full_like(tensor, 1.0 / scale).flatten()
                for tensor, scale in zip(observed.values(), scales, strict=True)
            ]
        )
        target = torch.cat([tensor.flatten() for tensor in observed.values()])
        self._kept = target.nonzero()[:, 0].to(device) if sends_part(observation) else slice(None)
        self._weights, self._target = weights.to(device)[self._kept], (target * weights).to(device)[self._kept]
        self.count, self._labels = len(self._target), labels.to(device)
        self.prior_mean = unknowns.prior_mean().to(device)
        precision = unknowns.prior_precision()
        self.prior_precision = (precision if self.is_noisy else torch.zeros_like(precision)).to(device)
        noise = self.count + _SURE * math.sqrt(2.0 * self.count)  # a sum of squares of normal variables
        self.expected = noise if self.is_noisy else _sum_rounding(observation, {})
        self.tolerable = noise if self.is_noisy else _sum_rounding(observation, self._measure_rounding(observation))
        self.parts = self._split()

    def objective(self, residual: Tensor, values: Tensor) -> float:
        """Return the sum of squares of the residual and, under noise, of the prior."""
        prior = (self.prior_precision * (values - self.prior_mean).square()).sum()
        return float(residual.square().sum() + prior)

    @torch.no_grad()
    def residual(self, values: Tensor) -> Tensor:
        """Return weighted g* - g(x), shape (P,)."""
        return self._target - self._gradient(values)

    def linearise(self, values: Tensor) -> Linearisation:
        """Return the equations at a point with products of their Jacobian, which is never formed.

        J^T w is linear in w, so its own derivative along a change v is J v. Both products cost a gradient or two.
        """
        point = values.detach().requires_grad_()
        gradient = self._gradient(point)
        dummy = torch.zeros_like(gradient, requires_grad=True)
        (transposed,) = torch.autograd.grad(gradient, point, dummy, create_graph=True)

        def forward(change: Tensor) -> Tensor:
            return torch.autograd.grad(transposed, dummy, change, retain_graph=True)[0]

        def backward(weights: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, point, weights, retain_graph=True)[0]

        return Linearisation((self._target - gradient).detach(), forward, backward)

    def jacobian(self, values: Tensor) -> Tensor:
        """Return the transposed Jacobian of the weighted gradient, shape (n, P), by forward over reverse."""
        rows = torch.empty((self.unknowns.size, self.count), dtype=torch.float64, device=values.device)
        for part in self.parts:
            point = values[part.places]
            directions = torch.eye(len(point), dtype=point.dtype, device=point.device).split(_COLUMNS)
            for places, chunk in zip(part.places.split(_COLUMNS), directions, strict=True):
                check_deadline()
                rows[places] = push_all_forward(self._gradient_of(part), point, chunk)
        return rows

    def _gradient(self, values: Tensor) -> Tensor:
        whole = self.unknowns.split(1)[0]
        return self._gradient_of(whole)(values[whole.places])

    def _gradient_of(self, part: UnknownsPart) -> Callable[[Tensor], Tensor]:
        """Return the weighted gradient of a part's examples as a function of their unknowns."""
        labels = self._labels[part.examples.start : part.examples.stop]
        share = len(part.examples) / self.unknowns.examples

        def gradient(values: Tensor) -> Tensor:
            inputs, masks = part.unpack(values, self.unknowns.shape)
            return share * self._client.gradient(inputs, labels, masks)[self._kept] * self._weights

        return gradient

    def _measure_rounding(self, observation: Observation) -> dict[str, float]:
        """Return the relative rounding of the client's precision by tensor, at random examples.

        It is larger in deep models.

        Empty for weight deltas and several steps, for which the rounding of the weights counts.
        """
        if observation.local_steps > 1 or observation.update.kind == "delta":
            return {}
        (whole,) = self.unknowns.split(1)
        values = self.unknowns.start(torch.Generator().manual_seed(0), 1.0).to(self._client.device)
        inputs, (masks,) = whole.unpack(values[whole.places], self.unknowns.shape)
        theirs = client_gradient(observation, inputs, self._labels, masks)
        with torch.no_grad():
            ours = self._client.gradient(inputs, self._labels, (masks,))
        sizes = [theirs[name].numel() for name in observation.update.tensors]
        pairs = zip(observation.update.tensors, ours.split(sizes), strict=True)
        return {
            name: float((theirs[name].flatten() - tensor).norm() / tensor.norm().clamp_min(TINY))
            for name, tensor in pairs
        }

    @torch.no_grad()
    def _split(self) -> list[UnknownsPart]:
        """Return one part per example if their gradients sum to the gradient of the batch, else a single part."""
        whole, single = self.unknowns.split(1), self.unknowns.split(self.unknowns.examples)
        generator = torch.Generator().manual_seed(0)
        values = self.unknowns.start(generator, 1.0).to(self._client.device)
        batch = self._gradient_of(whole[0])(values[whole[0].places])
        try:
            added = torch.stack([self._gradient_of(part)(values[part.places]) for part in single]).sum(0)
        except (ValueError, RuntimeError):  # batch statistics of a single example
            return whole
        return single if float((added - batch).norm()) < _SEPARATE * float(batch.norm()) else whole


def _sum_rounding(observation: Observation, measured: Mapping[str, float]) -> float:
    """Return the sum of squares caused by rounding, tensor by tensor, each relative to its norm.

    Rounding measured at other examples counts twice, since it differs from example to example. A weight delta also has
    the rounding of the weights, once for every local step.
    """
    total = 0.0
    for name, tensor in observation.update.tensors.items():
        relative = max(_STEPS * torch.finfo(tensor.dtype).eps, min(2.0 * measured.get(name, 0.0), _UNSTABLE))
        if observation.update.kind == "delta":
            weights = observation.model.get_parameter(name).detach()
            size = float(weights.norm()) / max(float(tensor.norm()), TINY)
            relative = max(relative, math.sqrt(observation.local_steps) * torch.finfo(weights.dtype).eps * size)
        total += max(relative, _FINEST) ** 2
    return total
