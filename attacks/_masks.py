"""Dropout masks read off a gradient: a unit that was dropped in every example leaves a zero column behind it.

Exact for activations that are never zero themselves (GELU near initialisation); with ReLU a zero column means
dropped or inactive, which reproduces the gradient just as well. Only for observations without noise, pruning or
quantisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.masks import injected_masks
from fedsim.types import Observation


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
    example = torch.ones((observation.sites[0].shape[0], *observation.spec.shape)) if observation.sites else None
    found: dict[int, str] = {}
    for index in range(len(observation.sites)):
        silent: list[str] = []
        handles = [
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: silent.append(name) if not inputs[0].any() else None
            )
            for name, module in observation.model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        masks = tuple(torch.full(s.shape, float(i != index)) for i, s in enumerate(observation.sites))
        with injected_masks(observation.sites, masks):
            observation.model(example)
        for handle in handles:
            handle.remove()
        width = observation.sites[index].shape[1:]
        if silent and len(width) == 1 and _inputs(observation, silent[0]) == width[0]:
            found[index] = silent[0]
    return found


def _inputs(observation: Observation, name: str) -> int:
    layer = observation.model.get_submodule(name)
    return layer.in_features if isinstance(layer, nn.Linear) else 0
