"""Inference of numeric targets from output residuals by Newton's method."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.core.targets._residuals import Residuals
from attacks.core.targets._slopes import Slope
from attacks.core.targets._values import Targets
from attacks.core.tolerances import EXACT, LEAST

_STEPS = 12  # of Newton's method; most residuals are linear in the target and need a single step
_MATCHES = 1e-4  # relative to an example's largest residual: single precision has an error of about 1e-6
_BESIDE = 1e-3  # offset of Newton's start from the outputs, relative to the largest output
_FLAT = 1e-6  # slope of a residual by its target, relative to the largest, that counts as zero


def read_numbers(residuals: Residuals, slope: Slope, shape: tuple[int, ...]) -> Targets:
    """Return the numbers that reproduce the observed residuals, by Newton's method from the outputs."""
    outputs, values = residuals
    start = torch.zeros(len(outputs), *shape, dtype=torch.float64)
    if outputs.numel() == start.numel():  # not at the outputs themselves: an absolute value has no slope at zero
        start = outputs.reshape(start.shape) + _BESIDE * outputs.abs().amax().clamp_min(LEAST)
    targets = start
    depends = is_determined = torch.zeros(())
    for _ in range(_STEPS):
        targets = targets.detach().requires_grad_()
        current = slope(targets)
        slopes, wanted = _slopes_by_target(current, targets), _flatten_examples(values - current.detach())
        # Where the loss is linear the slope is zero; slopes of earlier steps count.
        inverse, is_any = torch.linalg.pinv(slopes, rtol=_FLAT), slopes.abs() > _FLAT * slopes.abs().amax()
        depends, is_determined = depends + is_any, is_determined + _are_determined(inverse @ slopes)
        step = inverse @ wanted[:, :, None]
        targets = (targets + step.view(targets.shape)).detach()
        if float(step.abs().max()) <= EXACT**2 * float(targets.abs().max().clamp_min(1.0)):
            break
    sizes = _flatten_examples(values).abs().amax(1, keepdim=True)
    misses = _flatten_examples(slope(targets) - values).abs() > _MATCHES * sizes
    are_told = ((is_determined > 0) & ~((depends > 0) & misses[:, :, None]).any(1)).view(targets.shape)
    are_flat = _are_flat(slope, targets, outputs)
    return Targets(targets.where(are_told, torch.nan), are_told & ~are_flat, are_told & are_flat)


def _are_determined(resolution: Tensor) -> Tensor:
    """Return the mask of determined targets, from the products of inverse slopes and slopes (B, D, D)."""
    return resolution.diagonal(dim1=1, dim2=2) > 1.0 - _MATCHES


def _slopes_by_target(residuals: Tensor, targets: Tensor) -> Tensor:
    """Return the derivative of each residual by each target of its example, shape (B, residuals, targets)."""
    columns = _flatten_examples(residuals).sum(0).unbind()
    rows = [
        torch.autograd.grad(column, targets, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
        if column.requires_grad
        else torch.zeros_like(targets)
        for column in columns
    ]
    return torch.stack([_flatten_examples(row.detach()) for row in rows], 1)


def _flatten_examples(values: Tensor) -> Tensor:
    """Return the values of each example in a row, shape (B, all)."""
    return values.reshape(len(values), -1)


def _are_flat(slope: Slope, targets: Tensor, outputs: Tensor) -> Tensor:
    """Return the mask of targets whose residual would not change at a larger distance from the output."""
    if outputs.numel() != targets.numel():
        return torch.zeros_like(targets, dtype=torch.bool)
    distance = targets - outputs.reshape(targets.shape)
    moved = (slope(targets + 0.5 * distance) - slope(targets)).reshape(targets.shape).abs()
    linear = slope(targets).reshape(targets.shape).abs()
    return (moved <= _MATCHES * linear) & (distance != 0)
