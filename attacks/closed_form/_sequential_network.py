"""Sequential networks: linear and convolutional layers, each with an elementwise activation, and dropout.

A network is recognised by its behaviour: calling the innermost modules one after another must give the model's output.
Each layer then has linear equations for its inputs: z = W x from its outputs, and dW = sum over examples of k (x) x
from its gradient, with k = dL/dz. Vectors of several examples are concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.foreign import pytorch
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import DropoutSite, Observation

_RESHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)
_ROWS_AT_ONCE = 256
_LARGEST_LOGIT = 1.0 - 1e-15
_SURELY_ZERO = 1e-6  # relative to the largest output; rounding errors of solved outputs in float32 stay below


@dataclass(frozen=True)
class Activation:
    """An increasing elementwise function.

    Attributes:
        inverse: the pre-activation of an output; any valid pre-activation where the slope is 0.
        slope: the derivative, as a function of the output.
        is_invertible: False for ReLU: the zeros of its output do not determine its input.
    """

    function: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    is_invertible: bool = True


@dataclass(frozen=True)
class Drop:
    """Dropout in front of a layer.

    Attributes:
        index: index into the observation's sites.
        rate: probability p.
        activation: shape of the dropped activation, batch first.
        mask: shape of its mask.
    """

    index: int
    rate: float
    activation: tuple[int, ...]
    mask: tuple[int, ...]


@dataclass(frozen=True)
class SequentialLayer:
    """A linear or convolutional layer, with the dropout before it and the activation after it.

    Attributes:
        name: name of its module.
        shape: shape of one input.
        drop: the dropout before it, or None.
        activation: the activation after it.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    shape: tuple[int, ...]
    drop: Drop | None
    activation: Activation

    @property
    def unknowns(self) -> int:
        """Number of entries of one input."""
        return math.prod(self.shape)

    @property
    def weight(self) -> Tensor:
        """The weight in float64."""
        return self.module.weight.detach().double()

    @property
    def bias(self) -> Tensor | None:
        """The bias in float64, one entry per row or channel, or None."""
        return None if self.module.bias is None else self.module.bias.detach().double()

    @cached_property
    def offset(self) -> Tensor:
        """The outputs (entries,) of one example for an input of zeros."""
        return self.apply(torch.zeros(self.unknowns, dtype=torch.float64))

    def apply(self, vector: Tensor) -> Tensor:
        """Return the outputs (B entries,) for B flattened inputs (B unknowns,), with the bias."""
        return self._linear(vector.view(-1, *self.shape), self.bias).flatten()

    def transpose(self, vector: Tensor) -> Tensor:
        """Return W^T k, shape (B unknowns,), for a vector k over the outputs of B examples."""
        examples = len(vector) // len(self.offset)
        point = torch.zeros(examples, *self.shape, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            product = self._linear(point, None).flatten() @ vector
        return torch.autograd.grad(product, point)[0].flatten()

    def weight_rows(self, examples: int = 1) -> Tensor:
        """Return the layer without its bias as a matrix, shape (B outputs, B unknowns)."""
        rows = torch.cat([self._linear(part, None).flatten(1) for part in self._basis()]).T
        return torch.block_diag(*[rows] * examples)

    def gradient_rows(self, k: Tensor) -> Tensor:
        """Return the matrix from a convolution's inputs to its weight gradient, both flattened.

        Args:
            k: dL/dz over the outputs of all B examples; the matrix has B unknowns columns.
        """
        assert isinstance(self.module, nn.Conv2d)
        cut = torch.cat([self._cut(part) for part in self._basis()])  # (unknowns, patch, places)
        by_example = k.view(-1, self.module.out_channels, cut.shape[2])
        return torch.cat([torch.einsum("ncp,op->noc", cut, example_rows).flatten(1) for example_rows in by_example]).T

    def _basis(self) -> tuple[Tensor, ...]:
        return torch.eye(self.unknowns, dtype=torch.float64).view(-1, *self.shape).split(_ROWS_AT_ONCE)

    def _cut(self, examples: Tensor) -> Tensor:
        assert isinstance(self.module, nn.Conv2d)
        conv: Any = self.module
        return F.unfold(examples, conv.kernel_size, conv.dilation, conv.padding, conv.stride)

    def _linear(self, examples: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.module, nn.Linear):
            return F.linear(examples, self.weight, bias)
        conv: Any = self.module
        return F.conv2d(examples, self.weight, bias, conv.stride, conv.padding, conv.dilation)


@dataclass
class _Call:
    name: str
    module: nn.Module
    inputs: tuple[int, ...]


@torch.no_grad()
def chain_of(observation: Observation) -> tuple[SequentialLayer, ...]:
    """Return the layers in the order of their calls.

    Raises:
        NotApplicable: with the reason why the model is not sequential, or the missing part of its update.
    """
    calls = _calls(observation)
    layers = _layers(observation, calls)
    if not layers:
        raise NotApplicable("the model has no linear or convolutional layer")
    if layers[-1].activation is not _IDENTITY or not isinstance(layers[-1].module, nn.Linear):
        raise NotApplicable("the chain does not end with a linear layer that gives the class scores")
    return layers


def _calls(observation: Observation) -> list[_Call]:
    """Return the innermost modules in call order; raise `NotApplicable` unless their composition is the model."""
    model = observation.working_copy("eval", torch.float64)
    calls: list[_Call] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise NotApplicable(f"the input of '{name}' is not a single tensor, so the model is no chain of layers")
        calls.append(_Call(name, module, tuple(inputs[0].shape)))

    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_pre_hook(lambda m, i, name=name: note(name, m, i))
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((1, *observation.spec.shape), generator=generator, dtype=torch.float64)
    with disable_dropout():
        expected = model(example)
        seen = list(calls)
        for call in seen:
            _refuse_strangers(call)
            if example.numel() != math.prod(call.inputs):
                raise NotApplicable(
                    f"'{call.name}' gets more than the output of the layer before it: the model is no chain"
                )
            example = call.module(example.reshape(call.inputs))
    if example.shape != expected.shape or not torch.equal(example, expected):
        raise NotApplicable("the model is no chain: its layers called in sequence give another output than the model")
    return seen


def _refuse_strangers(call: _Call) -> None:
    module = call.module
    known = type(module) in (nn.Linear, nn.Conv2d) or isinstance(module, (*_RESHAPES, pytorch.Dropout))
    if not known and _activation(module) is None:
        raise NotApplicable(f"'{call.name}' ({type(module).__name__}) is no layer that can be solved for its input")
    if type(module) is nn.Linear and len(call.inputs) != 2:  # noqa: PLR2004 - one vector an example
        raise NotApplicable(f"'{call.name}' sees several vectors per example")
    if isinstance(module, nn.Conv2d) and (
        module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        raise NotApplicable(
            f"'{call.name}' is a convolution with groups, with padding given by name, or with padding that is not zeros"
        )


def _layers(observation: Observation, calls: list[_Call]) -> tuple[SequentialLayer, ...]:
    """Group the calls by layer; raise `NotApplicable` if their order is not supported."""
    layers: list[SequentialLayer] = []
    sites = list(enumerate(observation.sites))
    drop: Drop | None = None
    for call in calls:
        activation = _activation(call.module)
        if isinstance(call.module, nn.Linear | nn.Conv2d):
            _refuse_hidden(observation, call, layers)
            layers.append(SequentialLayer(call.name, call.module, call.inputs[1:], drop, _IDENTITY))
            drop = None
        elif isinstance(call.module, pytorch.Dropout) and sites and sites[0][1].name == call.name:
            if drop is not None:
                raise NotApplicable(f"'{call.name}' drops out activations that were already dropped out")
            index, site = sites.pop(0)
            drop = _drop(index, site, call)
        elif activation is not None:
            if not layers or drop is not None or layers[-1].activation is not _IDENTITY:
                raise NotApplicable(f"the activation '{call.name}' does not follow a layer directly")
            layers[-1] = SequentialLayer(
                layers[-1].name, layers[-1].module, layers[-1].shape, layers[-1].drop, activation
            )
    if sites or drop is not None:
        raise NotApplicable("the model has dropout behind its last layer")
    return tuple(layers)


def _drop(index: int, site: DropoutSite, call: _Call) -> Drop:
    return Drop(index, site.rate, (1, *call.inputs[1:]), (1, *site.shape[1:]))


def _refuse_hidden(observation: Observation, call: _Call, layers: list[SequentialLayer]) -> None:
    if f"{call.name}.weight" not in observation.update.tensors:
        raise NotApplicable(f"the gradient of '{call.name}' is hidden or the layer is frozen")
    if call.name in {layer.name for layer in layers}:
        raise NotApplicable(f"'{call.name}' is called twice, so its gradient is a sum")


def _activation(module: nn.Module) -> Activation | None:
    """Return the activation that a module computes, or None. An identity counts as a reshape, not as an activation."""
    if type(module) is nn.LeakyReLU and module.negative_slope > 0:
        return _leaky(module.negative_slope)
    return _BY_TYPE.get(type(module))


def _leaky(slope: float) -> Activation:
    return Activation(
        function=lambda z: torch.where(z >= 0, z, slope * z),
        inverse=lambda a: torch.where(a >= 0, a, a / slope),
        slope=lambda a: torch.where(a >= 0, torch.ones_like(a), slope),
    )


_IDENTITY = Activation(lambda z: z, inverse=lambda a: a, slope=torch.ones_like)
_BY_TYPE: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(
        torch.relu,
        inverse=lambda a: a,
        slope=lambda a: (a > _SURELY_ZERO * a.abs().max()).to(a.dtype),
        is_invertible=False,
    ),
    nn.Sigmoid: Activation(
        torch.sigmoid,
        inverse=lambda a: a.clamp(1 - _LARGEST_LOGIT, _LARGEST_LOGIT).logit(),
        slope=lambda a: a * (1 - a),
    ),
    nn.Tanh: Activation(
        torch.tanh, inverse=lambda a: a.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT).atanh(), slope=lambda a: 1 - a.square()
    ),
}
