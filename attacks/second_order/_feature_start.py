"""A start for the images of a batch: what the last layer read of each, followed back to the pixels.

The head's gradient tells what it read of every example (`attacks/core/head_features.py`). From grey, a few damped steps
of least norm find an image for it. That says too little for an image, but it tells the examples of a batch apart, which
is where steps from grey end in local minima.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev

from attacks.core.head_features import Head, HeadFeatures, separate_features
from attacks.core.mask_readout_rules import linear_behind
from attacks.core.mean_gradient import gradient_weight
from attacks.core.tolerances import TINY
from attacks.second_order._client import Client
from attacks.second_order._equations import Equations
from fedsim.core.losses import is_cross_entropy
from fedsim.core.masks import expected_mask
from fedsim.core.output_layer import output_layer
from fedsim.core.types import Masks, Observation

Read = Callable[..., Tensor]  # what the last layer reads of examples (1, *shape), given its masks

_SPREADS = (0.1, 1.0, 3.0)  # standard deviations of noise in normalised units: near grey, images, far away
_STEPS, _TRIES = 30, 8
_FIRST_DAMPING, _EASE, _TIGHTEN = 1e-2, 0.2, 4.0
_CLOSE = 3e-7  # relative distance of features: those of a gradient in single precision are no closer
_STILL = 0.999  # a step that gains less is the last one
_DROPPED = 1e-6  # of the largest feature; rounding errors of separated ones stay below
_CHUNK = 64  # rows of a Jacobian at once


class Told(NamedTuple):
    """What the head tells: the name of the last layer, what it read of every example, (B, D), and its errors (B,)."""

    name: str
    features: Tensor
    errors: Tensor


def features_of(observation: Observation, labels: Tensor, generator: torch.Generator) -> Told | None:
    """Return what the last layer read of every example, or None where its gradient does not tell."""
    found = output_layer(observation.model, observation.spec.classes)
    tensors = observation.update.tensors
    if found is None or observation.local_steps > 1 or f"{found[0]}.weight" not in tensors:
        return None
    name, layer = found
    if not is_cross_entropy(observation.loss, (2, layer.out_features)):
        return None
    factor, bias = gradient_weight(observation), tensors.get(f"{name}.bias")
    head = Head(
        layer.weight.detach().cpu().double(),
        None if layer.bias is None else layer.bias.detach().cpu().double(),
        tensors[f"{name}.weight"].cpu().double() / factor,
        None if bias is None else bias.cpu().double() / factor,
    )
    separated = separate_features(head, labels.cpu(), generator)
    return None if separated is None else Told(name, separated.inputs, _errors(separated, labels.cpu()))


def _errors(separated: HeadFeatures, labels: Tensor) -> Tensor:
    """Return how far each input (B, D) may be from the truth: by rounding, and by the blur of what labels share."""
    alike = (labels[:, None] == labels).double()
    means = alike @ separated.inputs / alike.sum(1, keepdim=True)
    return _CLOSE * separated.inputs.norm(dim=1) + separated.blur * (separated.inputs - means).norm(dim=1)


def starts_from_features(
    observation: Observation, equations: Equations, labels: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield starts (n,) without end for several examples whose gradients add up; none where the head does not tell.

    Examples of one label may share their features. Noise in front of the steps tells them apart, more of it each time.

    Args:
        observation: of a smooth model.
        equations: of its update.
        labels: shape (B,).
        generator: for the search of features, and for noise.
    """
    if len(equations.parts) == 1 or equations.is_noisy:
        return
    found = features_of(observation, labels, generator)
    if found is None:
        return
    masks = _likely_masks(observation, found.name, found.features)
    read = partial(Client(observation).features, name=found.name)
    shape = (len(found.features), *observation.spec.shape)
    for spread in cycle(_SPREADS):
        noise = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        yield _start_at(equations, read, found, noise, masks)


def _start_at(equations: Equations, read: Read, found: Told, noise: Tensor, masks: Masks) -> Tensor:
    """Return a start (n,) whose examples were followed back from noise (B, *shape)."""
    unknowns = equations.unknowns
    start = unknowns.start_at(noise, masks).to(equations.prior_mean)
    images: list[Tensor] = []
    for part, wanted, error in zip(equations.parts, found.features, found.errors.tolist(), strict=True):
        begun, steps = part.unpack(start[part.places], unknowns.shape)
        images.append(_follow_back(partial(read, masks=steps[0]), wanted.to(begun), error, begun).flatten())
    return torch.cat([*images, start[unknowns.pixels :]])


def _likely_masks(observation: Observation, name: str, features: Tensor) -> Masks:
    """Return expected masks, and in front of the head those that zeros of what it read show."""
    masks = [expected_mask(site) for site in observation.sites]
    for index, behind in linear_behind(observation).items():
        if behind == name:
            is_kept = features.abs() > _DROPPED * features.abs().amax(1, keepdim=True)
            masks[index] = is_kept.to(masks[index]).view(masks[index].shape)
    return tuple(masks)


def _follow_back(read: Read, wanted: Tensor, error: float, start: Tensor) -> Tensor:
    """Return an example (1, *shape) whose features (1, D) are near the wanted ones (D,), by steps of least norm.

    They end where only the error is left: nearer ones would be those of noise, which pixels have to follow far away.
    """
    values, damping = start, _FIRST_DAMPING
    residual = wanted - read(values)[0]
    for _ in range(_STEPS):
        slopes = jacrev(lambda own: read(own)[0], chunk_size=_CHUNK)(values).flatten(1)  # (D, n)
        products = slopes @ slopes.T
        size = float(products.diagonal().mean().clamp_min(TINY))
        for tightened in range(_TRIES):
            damped = products.clone()
            damped.diagonal().add_(damping * _TIGHTEN**tightened * size)
            tried = values + (slopes.T @ torch.linalg.solve(damped, residual)).view_as(values)
            missing = wanted - read(tried)[0]
            if missing.norm() < residual.norm():
                break
        else:
            return values
        gain = float(missing.norm() / residual.norm())
        values, residual, damping = tried, missing, damping * _TIGHTEN**tightened * _EASE
        if gain > _STILL or float(residual.norm()) < error:
            break
    return values
