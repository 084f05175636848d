"""Which layers see the pixels themselves, found by numbering the pixels instead of knowing the model's class.

A forward pass on an image whose pixels are numbered 1, 2, ... shows in front of which linear or convolutional layer
nothing but moved pixels arrives, and where each of them went. Every dropout mask is zero meanwhile, so a layer behind
a dropout is never taken for one that sees the pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fedsim.masks import injected_masks, without_dropout
from fedsim.types import Observation


@dataclass(frozen=True)
class PixelLayer:
    """A layer whose input consists of pixels.

    Attributes:
        pixels: index (from 0) into the flattened example of every entry of one input, shape (1, ...).
    """

    name: str
    module: nn.Module
    pixels: Tensor


@torch.no_grad()
def layers_on_pixels(observation: Observation) -> list[PixelLayer]:
    """Return the linear and convolutional layers that see all pixels and nothing else, in the order of the calls."""
    model = copy.deepcopy(observation.model)
    shape, count = observation.spec.shape, math.prod(observation.spec.shape)
    batch_size = _batch_size(observation)
    numbered = torch.arange(1, count + 1, dtype=next(model.parameters()).dtype).view(1, *shape)
    with (
        inputs_in_order(model, (nn.Linear, nn.Conv2d)) as seen,
        injected_masks(observation.sites, tuple(torch.zeros(site.shape) for site in observation.sites)),
    ):
        model(numbered.expand(batch_size, *shape))
    return [
        PixelLayer(name, model.get_submodule(name), entries[:1].long() - 1)
        for name, entries in seen
        if torch.equal(entries.unique(), numbered.flatten())
    ]


def _batch_size(observation: Observation) -> int:
    """Number of examples that the sites are made for; masks inside an attention count each example once a head."""
    first = [site.shape[0] for site in observation.sites]
    known = observation.batch_size
    return known if known and all(size % known == 0 for size in first) else math.gcd(*first) or 1


def first_linear(observation: Observation) -> PixelLayer | None:
    """Return the linear layer that sees the flattened example, in whatever order of the pixels, if it is shared."""
    count = math.prod(observation.spec.shape)
    layers = (layer for layer in layers_on_pixels(observation) if f"{layer.name}.weight" in observation.update.tensors)
    flat = (layer for layer in layers if isinstance(layer.module, nn.Linear) and layer.pixels.shape == (1, count))
    return next(flat, None)


def examples_from(rows: Tensor, layer: PixelLayer, observation: Observation) -> Tensor:
    """Put inputs (B, pixels) of a first linear layer back into the shape of examples, in the model's precision."""
    examples = rows[:, layer.pixels[0].argsort()].view(-1, *observation.spec.shape)
    return examples.to(next(observation.model.parameters()).dtype)


@dataclass(frozen=True)
class Behind:
    """The linear layer behind the first one.

    Attributes:
        inputs: what it sees, as a function of the first layer's outputs (N, width), in float64 without dropout.
    """

    name: str
    inputs: Callable[[Tensor], Tensor]


class _Given(nn.Module):
    """Stands in for a layer and returns what it was told to."""

    values: Tensor

    def forward(self, _inputs: Tensor) -> Tensor:
        return self.values


def layer_behind(observation: Observation, first: str) -> Behind | None:
    """Return the first linear layer that is called after `first` and has as many inputs as that one has outputs."""
    model = copy.deepcopy(observation.model).double().eval()
    width = len(model.get_parameter(f"{first}.weight"))
    given = _Given()
    model.set_submodule(first, given)

    @torch.no_grad()
    def run(outputs: Tensor) -> list[tuple[str, Tensor]]:
        given.values = outputs
        with inputs_in_order(model, (nn.Linear, _Given)) as seen, without_dropout():
            model(torch.zeros(len(outputs), *observation.spec.shape, dtype=torch.float64))
        return seen

    calls = run(torch.zeros(1, width, dtype=torch.float64))
    start = next(index for index, (name, _) in enumerate(calls) if name == first)
    fitting = (index for index in range(start + 1, len(calls)) if calls[index][1].shape == (1, width))
    index = next(fitting, None)
    is_shared = index is not None and f"{calls[index][0]}.weight" in observation.update.tensors
    return None if index is None or not is_shared else Behind(calls[index][0], lambda outputs: run(outputs)[index][1])


@contextmanager
def inputs_in_order(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name, input) of every call of a module of these kinds, in call order."""
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((name, inputs[0].detach()))

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    handles = [module.register_forward_pre_hook(partial(note, name)) for name, module in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
