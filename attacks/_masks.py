"""Dropout masks read off a gradient: a unit that was dropped in every example leaves a zero column behind it.

In a vision transformer the gradient of the position embedding is zero where the first mask dropped an entry.

Exact for activations that are never zero themselves (GELU near initialisation); with ReLU a zero column means
dropped or inactive, which reproduces the gradient just as well. Only for observations without noise, pruning or
quantisation.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from attacks._layers import inputs_in_order
from attacks._patches import patch_projection, position_embedding
from fedsim.masks import injected_masks
from fedsim.types import Masks, Observation

_TRIED = 0.5  # share of entries kept in masks of our own


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


def read_embedding_mask(observation: Observation) -> dict[int, Tensor]:
    """Return the mask behind a position embedding by index into ``observation.sites``, or nothing.

    For one example only: the gradient of the embedding is the upstream gradient times the mask. Tokens without any
    gradient, which nobody read, are not a number.
    """
    if observation.batch_size != 1:
        return {}
    patches = patch_projection(observation)
    positions = position_embedding(observation, patches) if patches else None
    if positions is None or positions.name not in observation.update.tensors:
        return {}
    index = _site_behind(observation, positions.name)
    if index is None:
        return {}
    kept = observation.update.tensors[positions.name].reshape(observation.sites[index].shape) != 0
    unread = ~kept.any(-1, keepdim=True)
    return {index: torch.where(unread, torch.nan, kept.to(torch.get_default_dtype()))}


def _site_behind(observation: Observation, name: str) -> int | None:
    """Index of the site whose mask of our own shows as zeros in the gradient of a parameter of its shape."""
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(observation.model).double().train().requires_grad_()
    for parameter in model.parameters():  # a head that starts at zero passes no gradient on
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    example = torch.randn((1, *observation.spec.shape), generator=generator, dtype=torch.float64)
    embedding = model.get_parameter(name)
    for index, site in enumerate(observation.sites):
        if site.shape[-2:] != embedding.shape[-2:] or math.prod(site.shape) != embedding.numel():
            continue
        mask = (torch.rand(site.shape, generator=generator) < _TRIED).double()
        masks = tuple(mask if i == index else torch.ones(s.shape).double() for i, s in enumerate(observation.sites))
        with injected_masks(observation.sites, masks):
            loss = observation.loss(model(example), torch.zeros(1, dtype=torch.long))
        (gradient,) = torch.autograd.grad(loss, [embedding], materialize_grads=True)
        if torch.equal(gradient.reshape(site.shape) != 0, mask != 0):
            return index
    return None


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
