"""Noise level of a gradient's entries: declared by a defense, caused by rounding, or measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.core.defense_facts import noise_of
from attacks.core.tolerances import TINY
from fedsim.core.types import Observation, Tensors

_ROUNDING = 1e-5  # relative to the entries' root mean square; noise below is rounding of single precision
_FEWEST_FREE = 8
_STEPS = 4.0
_SUMMED = 2 * torch.finfo(torch.float32).eps  # noise over norm of a gradient: sums in single precision round often


def stated_levels(observation: Observation, gradients: Tensors) -> list[float] | None:
    """Return the standard deviation that a defense declares for the entries of each gradient, or None."""
    noise = noise_of(observation)
    if noise is None:
        return None
    units = [_size(gradient) if noise.is_relative else 1.0 for gradient in gradients.values()]
    return [max(math.sqrt(noise.share) * noise.scale * unit, TINY) for unit in units]


def rounding_levels(observation: Observation, gradients: Tensors) -> list[float]:
    """Return the standard deviation of rounding on the entries of each gradient (m, d).

    Entries sent in 16 bits have errors of up to half a step of that format. A difference of weights is rounded in steps
    of the weights, once for every local step. Sums in single precision cause singular values of about 1e-7 of the norm.
    """
    edge = math.sqrt(sum(len(gradient) for gradient in gradients.values())) + math.sqrt(
        next(iter(gradients.values())).shape[1]
    )
    return [max(_rounding(observation, name, gradient, edge), TINY) for name, gradient in gradients.items()]


def _rounding(observation: Observation, name: str, gradient: Tensor, edge: float) -> float:
    level = _SUMMED * float(gradient.double().norm()) / edge
    level = max(
        [level, *(_step(gradient, dtype) for dtype in (torch.float16, torch.bfloat16) if _fits(gradient, dtype))]
    )
    if observation.update.kind == "delta":
        weights = observation.model.get_parameter(name)
        level = max(level, math.sqrt(observation.local_steps) * _step(weights, weights.dtype))
    return level


def _fits(gradient: Tensor, dtype: torch.dtype) -> bool:
    return bool((gradient.to(dtype).to(gradient.dtype) == gradient).all())


def _step(values: Tensor, dtype: torch.dtype) -> float:
    """Return the standard deviation of the error of values rounded to a format."""
    format_ = torch.finfo(dtype)
    exponents = values.detach().double().abs().clamp_min(format_.smallest_normal).log2().floor()
    return float((format_.eps * exponents.exp2()).square().mean().sqrt()) / math.sqrt(12.0)


def measured_levels(observation: Observation, gradients: Tensors, tokens: int) -> list[float]:
    """Return the standard deviation of the noise on the entries of each gradient (m, d): declared, or else measured.

    A measured level is at least several times the machine epsilon, since rounding is not spread evenly over all
    directions. Noise on a matrix leaves (m - t) (d - t) times its variance in the singular values after the t largest.
    A matrix without such values gets the level of the widest matrix; scaled by its norm, if that level is only
    rounding.
    """
    stated = stated_levels(observation, gradients)
    if stated is not None:
        return stated
    names, shared = list(gradients), [gradient.double() for gradient in gradients.values()]
    measured = [_measured_level(gradient, tokens) for gradient in shared]
    sizes = [_size(gradient) for gradient in shared]
    widest = max(range(len(shared)), key=lambda index: min(shared[index].shape))
    level = measured[widest] or 0.0
    is_rounding = level < _ROUNDING * sizes[widest]
    fallback_levels = [level * size / max(sizes[widest], TINY) if is_rounding else level for size in sizes]
    levels = [
        estimate if estimate is not None else fallback
        for estimate, fallback in zip(measured, fallback_levels, strict=True)
    ]
    floors = [_STEPS * torch.finfo(observation.update.tensors[name].dtype).eps for name in names]
    return [max(estimate, floor * size, TINY) for estimate, floor, size in zip(levels, floors, sizes, strict=True)]


def _measured_level(gradient: Tensor, tokens: int) -> float | None:
    """Return the level from the singular values after the `tokens` largest, or None if too few remain."""
    rows, width = gradient.shape
    if min(rows, width) - tokens < _FEWEST_FREE:
        return None
    energy = torch.linalg.svdvals(gradient)[tokens:].square().sum()
    return math.sqrt(float(energy) / ((rows - tokens) * (width - tokens)))


def _size(gradient: Tensor) -> float:
    return float(gradient.double().square().mean().sqrt())
