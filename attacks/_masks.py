"""Dropout masks read off a gradient: a unit that was dropped in every example leaves a zero column behind it.

Exact for activations that are never zero themselves (GELU near initialisation); with ReLU a zero column means
dropped or inactive, which reproduces the gradient just as well. Only for observations without noise, pruning or
quantisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedsim.masks import injected_masks
from fedsim.types import Masks, Observation


def read_masks(observation: Observation) -> dict[int, Tensor]:
    """Return masks (1 kept, 0 dropped in all examples) by index into ``observation.sites``, shape of the site.

    Only sites whose output goes straight into a linear layer on (B, features) can be read.
    """
    masks: dict[int, Tensor] = {}
    for index, name in _linear_behind(observation).items():
        kept = (observation.update.tensors[f"{name}.weight"] != 0).any(0)
        masks[index] = kept.to(torch.get_default_dtype()).expand(observation.sites[index].shape).clone()
    return masks


@torch.no_grad()
def _linear_behind(observation: Observation) -> dict[int, str]:
    """Names of the linear layers whose input is the very output of a dropout site, by index of the site.

    Each site in turn gets a mask of zeros: the layer behind it is the first whose input vanishes.
    """
    found: dict[int, str] = {}
    for index, site in enumerate(observation.sites):
        masks = tuple(torch.full(s.shape, float(i != index)) for i, s in enumerate(observation.sites))
        name = _first_silent_linear(observation, masks)
        if name is not None and observation.update.tensors[f"{name}.weight"].shape[1:] == site.shape[1:]:
            found[index] = name
    return found


def _first_silent_linear(observation: Observation, masks: Masks) -> str | None:
    """The first linear layer to be called with nothing but zeros under the given masks."""
    silent: list[str] = []

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        return module.register_forward_pre_hook(
            lambda _module, inputs: silent.append(name) if not bool(inputs[0].any()) else None
        )

    linear = [(name, m) for name, m in observation.model.named_modules() if isinstance(m, nn.Linear)]
    handles = [watch(name, module) for name, module in linear]
    example = torch.ones((observation.sites[0].shape[0], *observation.spec.shape))
    with injected_masks(observation.sites, masks):
        observation.model(example)
    for handle in handles:
        handle.remove()
    return silent[0] if silent else None
