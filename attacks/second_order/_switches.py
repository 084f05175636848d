"""ReLU as a product with an unknown switch: for a fixed pattern of switches, a gradient is smooth.

relu(z) = g z with g = 1 where z > 0, else 0, in the forward and in the backward pass. The switches g are solved for
like dropout masks, between 0 and 1, so that no derivative meets a kink; the result is tested on the model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedsim.core.nets.masks import dropout_sites, inject_masks
from fedsim.core.types import Masks, Observation

_RATE, _OTHER_RATE = 0.5, 0.25  # any two rates: a site whose rate differs between them is a switch


class _Switches(TorchFunctionMode):
    """Replaces ReLU by a dropout with unscaled kept entries."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _RELU:
            return self._switch(*args[:1])
        if func is F.leaky_relu:
            values, slope = _read_leaky(*args, **(kwargs or {}))
            return slope * values + (1.0 - slope) * self._switch(values)
        return func(*args, **(kwargs or {}))

    def _switch(self, values: Tensor) -> Tensor:
        return F.dropout((1.0 - self._rate) * values, self._rate, training=True)


def _read_leaky(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> tuple[Tensor, float]:
    return input, negative_slope


_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


def switch_units(observation: Observation) -> tuple[Observation, tuple[int, ...]]:
    """Return the observation of a model with dropout sites in place of ReLUs, and the indices of these sites.

    Args:
        observation: observation of any model; without a ReLU, no site is added.
    """
    sizes = observation.spec.shape, observation.batch_size or 1
    model = _switch_model(observation.model, _RATE)
    sites = dropout_sites(model, *sizes)
    switched = dropout_sites(_switch_model(observation.model, _OTHER_RATE), *sizes)
    switches = tuple(
        i
        for i, (site, switched_site) in enumerate(zip(sites, switched, strict=True))
        if site.rate != switched_site.rate
    )
    return replace(observation, model=model, sites=sites), switches


def unit_values(observation: Observation, inputs: Tensor, masks: Masks) -> list[Tensor]:
    """Return every ReLU's input, in call order, in double precision.

    Args:
        observation: observation of the model with its ReLUs.
        inputs: shape (B, *shape).
        masks: one per dropout site.
    """
    model = observation.working_copy("train", torch.float64)
    doubles = tuple(mask.to(inputs.device, torch.float64) for mask in masks)
    with torch.no_grad(), inject_masks(observation.sites, doubles), _Watch() as watch:
        model(inputs.to(next(model.parameters())))
    return watch.values


class _Watch(TorchFunctionMode):
    """Records the inputs of ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _RELU or func is F.leaky_relu:
            self.values.append(args[0].clone())
        return func(*args, **(kwargs or {}))


def keep_own_masks(masks: Masks, switches: Sequence[int]) -> Masks:
    """Return the masks without the switches."""
    return tuple(mask for index, mask in enumerate(masks) if index not in switches)


def _switch_model(model: nn.Module, rate: float) -> nn.Module:
    """Return a copy of the model in a subclass, so that parameter names and deep copies still work."""
    kind = type(model)

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        with _Switches(rate):
            return kind.forward(self, *inputs, **named)

    switched = copy.deepcopy(model)
    switched.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return switched
