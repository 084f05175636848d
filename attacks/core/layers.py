"""Find the layers that read raw pixels, in any model, by a forward pass on numbered pixels.

A forward pass on an image with pixels numbered 1, 2, ... shows the linear and convolutional layers that read only
rearranged pixels, and the position of each pixel. All dropout masks are zero in this pass, so a layer after a dropout
never counts as a layer on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from types import MappingProxyType
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.core.nets.layer_calls import inputs_in_order, read_by
from fedsim.core.nets.masks import disable_dropout, inject_masks
from fedsim.core.types import DropoutSite, Observation

ResultT = TypeVar("ResultT")


def once_a_model(find: Callable[[Observation], ResultT]) -> Callable[[Observation], ResultT]:
    """Cache the result of a function of an observation for the lifetime of the observed model.

    The result may depend only on the architecture, the shape of the inputs, the dropout sites and the hidden tensors,
    and must not refer to the model itself.
    """
    results: WeakKeyDictionary[nn.Module, dict[Hashable, ResultT]] = WeakKeyDictionary()

    @wraps(find)
    def remember(observation: Observation) -> ResultT:
        known = results.setdefault(observation.model, {})
        key = (observation.spec, observation.sites, observation.hidden_parameters)
        if key not in known:
            known[key] = find(observation)
        return known[key]

    return remember


def run(model: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
    """Return the model's outputs, with some of its weights replaced; its buffers are not changed."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, {**weights, **buffers}, (inputs,))


@dataclass(frozen=True)
class PixelLayer:
    """A layer with pixels as its input.

    Attributes:
        pixels: index (from 0) into the flattened example of every entry of one input, shape (1, ...).
    """

    name: str
    module: nn.Module
    pixels: Tensor


class _Call(NamedTuple):
    layer: PixelLayer | None  # None unless it reads all pixels and nothing else
    name: str
    is_linear: bool
    shape: torch.Size  # of the input


@torch.no_grad()
def _calls(model: nn.Module, shape: Sequence[int], sites: Sequence[DropoutSite], examples: int) -> list[_Call]:
    """Return the calls of linear and convolutional layers, in order, in a forward pass on numbered pixels."""
    count = math.prod(shape)
    numbered = torch.arange(1, count + 1, dtype=next(model.parameters()).dtype).view(1, *shape)
    masks = tuple(torch.zeros(site.shape) for site in sites)
    with inputs_in_order(model, (nn.Linear, nn.Conv2d)) as seen, inject_masks(sites, masks):
        run(model, numbered.expand(examples, *shape))
    calls: list[_Call] = []
    for name, entries in seen:
        module = model.get_submodule(name)
        is_numbered = float(entries.max()) == count and torch.equal(entries.unique(), numbered.flatten())
        layer = PixelLayer(name, module, entries[:1].long() - 1) if is_numbered else None
        calls.append(_Call(layer, name, isinstance(module, nn.Linear), entries.shape))
    return calls


@once_a_model
def _observe_calls(observation: Observation) -> list[_Call]:
    return _calls(observation.model, observation.spec.shape, observation.sites, _examples(observation))


def _examples(observation: Observation) -> int:
    """Return the number of examples in the sites' shapes; masks inside an attention count an example once per head."""
    first = [site.shape[0] for site in observation.sites]
    known = observation.batch_size
    return known if known and all(size % known == 0 for size in first) else math.gcd(*first) or 1


def layers_on_pixels(observation: Observation) -> list[PixelLayer]:
    """Return the linear and convolutional layers that read all pixels and nothing else, in call order."""
    return [call.layer for call in _observe_calls(observation) if call.layer is not None]


def first_linear(observation: Observation) -> PixelLayer | None:
    """Return the linear layer that reads the flattened example, pixels in any order, if its gradient is shared."""
    layers = _flat(_observe_calls(observation))
    return next((layer for layer in layers if f"{layer.name}.weight" in observation.update.tensors), None)


def flat_layers(
    model: nn.Module, shape: Sequence[int], sites: Sequence[DropoutSite], examples: int
) -> list[PixelLayer]:
    """Return the linear layers that read the flattened example, pixels in any order.

    Args:
        model: model to run; it is not changed.
        shape: shape of one example.
        sites: dropout sites of the model.
        examples: number of examples in the sites' shapes.
    """
    return _flat(_calls(model, shape, sites, examples))


def _flat(calls: list[_Call]) -> list[PixelLayer]:
    layers = (call.layer for call in calls if call.layer is not None)
    return [
        layer for layer in layers if isinstance(layer.module, nn.Linear) and layer.pixels.shape[:-1] == torch.Size((1,))
    ]


def examples_from(rows: Tensor, layer: PixelLayer, observation: Observation) -> Tensor:
    """Put inputs (B, pixels) of a first linear layer back into the shape of examples, in the model's precision."""
    examples = rows[:, layer.pixels[0].argsort()].view(-1, *observation.spec.shape)
    return examples.to(next(observation.model.parameters()).dtype)


@dataclass(frozen=True)
class Behind:
    """The second linear layer.

    Attributes:
        inputs: function from the first layer's outputs (N, width) to this layer's inputs, in float64 without dropout.
    """

    name: str
    inputs: Callable[[Tensor], Tensor]


class _Given(nn.Module):
    """Layer that returns given outputs, as a replacement."""

    values: Tensor

    def forward(self, _inputs: Tensor) -> Tensor:
        return self.values


def layer_behind(observation: Observation, first: str) -> Behind | None:
    """Return the first linear layer called after `first` with as many inputs as `first` has outputs, or None."""
    name = _name_behind(observation, first)
    if name is None or f"{name}.weight" not in observation.update.tensors:
        return None
    given = _Given()
    model = observation.working_copy("eval", torch.float64, replaced={first: given}).requires_grad_(False)
    blank = torch.zeros(1, *observation.spec.shape, dtype=torch.float64)

    def inputs(outputs: Tensor) -> Tensor:
        given.values = outputs
        return read_by(model, [name], blank.expand(len(outputs), *observation.spec.shape), disable_dropout())[0]

    return Behind(name, inputs)


def _name_behind(observation: Observation, first: str) -> str | None:
    width = len(observation.model.get_parameter(f"{first}.weight"))
    calls = _observe_calls(observation)
    start = next(index for index, call in enumerate(calls) if call.name == first)
    fitting = (call.name for call in calls[start + 1 :] if call.is_linear and call.shape[1:] == (width,))
    return next(fitting, None)
