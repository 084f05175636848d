"""Cut a gradient into slices of equal sensitivity to the input, as GradDefense does (Wang et al. 2022, INFOCOM)."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.core.inside import outputs_of
from fedsim.core.hooks import LocalStep
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.nets.losses import cross_entropy


def sensitivities(local: LocalStep) -> dict[str, float]:
    """Return the sensitivity of every parameter's gradient; zeros for an empty batch."""
    if not len(local.batch):
        return dict.fromkeys(local.parameters, 0.0)
    inputs = local.batch.inputs.detach().clone().requires_grad_()
    loss = cross_entropy(outputs_of(local, inputs), local.batch.labels)
    return {
        name: _slope(gradient.sum(), inputs) * len(inputs)  # the mean loss divides each example by B
        for name, gradient in gradient_of(loss, local.parameters, create_graph=True).items()
    }


def slices_of(sensitivity: dict[str, float], sizes: dict[str, int], slices: int) -> dict[str, Tensor]:
    """Return the slice index of each entry per flattened tensor; equal slice sizes if all sensitivities are 0."""
    weights: dict[str, float] = {**(sensitivity if any(sensitivity.values()) else sizes)}
    total = sum(weights.values())
    numbers: dict[str, Tensor] = {}
    before = 0.0
    for name, size in sizes.items():
        middles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        numbers[name] = ((before + weights[name] / total * middles) * slices).long().clamp_max(slices - 1)
        before += weights[name] / total
    return numbers


def _slope(figure: Tensor, inputs: Tensor) -> float:
    """Return the mean over examples of ||d figure / dx||; 0 if it does not depend on the inputs."""
    if not figure.requires_grad:
        return 0.0
    slope = torch.autograd.grad(figure, inputs, retain_graph=True, materialize_grads=True)[0]
    return float(slope.flatten(1).norm(dim=1).mean())
