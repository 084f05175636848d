"""Dropout masks read off a gradient: a unit that was dropped in every example leaves a zero column behind it.

Exact for activations that are never zero themselves (GELU near initialisation); with ReLU a zero column means
dropped or inactive, which reproduces the gradient just as well. Only for observations without noise, pruning or
quantisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attacks._layers import inputs_in_order
from fedsim.masks import injected_masks
from fedsim.types import Masks, Observation


def read_masks(observation: Observation) -> dict[int, Tensor]:
    """Return masks (1 kept, 0 dropped in all examples) by index into ``observation.sites``, shape of the site.

    Only sites whose output goes straight into a linear layer on (B, features) can be read.
    """
    masks: dict[int, Tensor] = {}
    for index, name in linear_behind(observation).items():
        kept = (observation.update.tensors[f"{name}.weight"] != 0).any(0)
        masks[index] = kept.to(torch.get_default_dtype()).expand(observation.sites[index].shape).clone()
    return masks


def read_all_masks(observation: Observation) -> Masks | None:
    """Return one mask a site, or None when some cannot be read off."""
    masks = read_masks(observation)
    indices = range(len(observation.sites))
    return tuple(masks[index] for index in indices) if len(masks) == len(indices) else None


@torch.no_grad()
def linear_behind(observation: Observation) -> dict[int, str]:
    """Names of the linear layers whose input is the very output of a dropout site, by index of the site.

    Each site in turn gets a mask of zeros: the layer behind it is the first whose input vanishes.
    """
    found: dict[int, str] = {}
    for index, site in enumerate(observation.sites):
        masks = tuple(torch.full(s.shape, float(i != index)) for i, s in enumerate(observation.sites))
        name = _first_silent_linear(observation, masks)
        gradient = observation.update.tensors.get(f"{name}.weight")
        if name is not None and gradient is not None and gradient.shape[1:] == site.shape[1:]:
            found[index] = name
    return found


def _first_silent_linear(observation: Observation, masks: Masks) -> str | None:
    """The first linear layer to be called with nothing but zeros under the given masks."""
    dtype = next(observation.model.parameters()).dtype
    example = torch.ones((masks[0].shape[0], *observation.spec.shape), dtype=dtype)
    with inputs_in_order(observation.model, (nn.Linear,)) as seen, injected_masks(observation.sites, masks):
        observation.model(example)
    return next((name for name, inputs in seen if not bool(inputs.any())), None)
