"""Starts for the images of a batch: the last layer's input of each example, inverted to pixels.

The head's gradient determines its input for every example (`attacks/core/head_features.py`). From grey, a few damped
steps of least norm find an image for each input. The image is inaccurate, but it distinguishes the examples of a batch,
for which steps from grey end in local minima.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from attacks.core.feature_inversion import STEPS, follow_back
from attacks.core.head_features import SeparatedFeatures, features_of
from attacks.core.mask_readout_rules import linear_behind
from attacks.second_order._client import Client
from attacks.second_order._equations import Equations
from fedsim.core.nets.masks import expected_mask
from fedsim.core.types import Masks, Observation

Read = Callable[..., Tensor]  # the last layer's input for examples (1, *shape), given its masks

_SPREADS = (0.1, 1.0, 3.0)  # standard deviations of noise in normalised units: near grey, images, far away
_DROPPED = 1e-6  # relative to the largest feature; rounding errors of separated features stay below


def starts_from_features(
    observation: Observation, equations: Equations, labels: Tensor, generator: torch.Generator, steps: int = STEPS
) -> Iterator[Tensor]:
    """Yield starts (n,) without end for several examples with additive gradients; none if the head cannot be solved.

    Examples of equal labels may have equal features. Noise before the steps separates them; its size varies from start
    to start.

    Args:
        observation: observation of a smooth model.
        equations: equations of its update.
        labels: shape (B,).
        generator: random source of the feature search and of noise.
        steps: largest number of steps for an image, at most `STEPS`.
    """
    if len(equations.parts) == 1 or equations.is_noisy:
        return
    head = features_of(observation, labels, generator)
    if head is None:
        return
    masks = _likely_masks(observation, head.name, head.features)
    read = partial(Client(observation).features, name=head.name)
    shape = (len(head.features), *observation.spec.shape)
    for spread in cycle(_SPREADS):
        noise = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        yield _start_at(equations, read, head, noise, masks, min(steps, STEPS))


def _start_at(
    equations: Equations, read: Read, head: SeparatedFeatures, noise: Tensor, masks: Masks, limit: int
) -> Tensor:
    """Return a start (n,) with examples inverted from noise (B, *shape)."""
    unknowns = equations.unknowns
    start = unknowns.start_at(noise, masks).to(equations.prior_mean)
    images: list[Tensor] = []
    for part, wanted, error in zip(equations.parts, head.features, head.errors.tolist(), strict=True):
        begun, steps = part.unpack(start[part.places], unknowns.shape)
        reader = partial(read, masks=steps[0])
        images.append(follow_back(reader, wanted.to(begun), begun, error=error, steps=limit).flatten())
    return torch.cat([*images, start[unknowns.pixels :]])


def _likely_masks(observation: Observation, name: str, features: Tensor) -> Masks:
    """Return expected masks; for a site in front of the head, the mask that zeros of the features show."""
    masks = [expected_mask(site) for site in observation.sites]
    for index, next_layer in linear_behind(observation).items():
        if next_layer == name:
            is_kept = features.abs() > _DROPPED * features.abs().amax(1, keepdim=True)
            masks[index] = is_kept.to(masks[index]).view(masks[index].shape)
    return tuple(masks)
