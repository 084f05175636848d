"""Modules as users bring them, most of them wrong in one way. Each function is what a scenario names as its model."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.types import InputSpec

CHECKED = 2
_calls = count()


class Answer(NamedTuple):
    scores: Tensor


Forward = Callable[[Any, Callable[[Tensor], Tensor], Tensor], Any]


class Perceptron(nn.Module):
    """What is right about every module here."""

    def __init__(self, spec: InputSpec, width: int = 12) -> None:
        super().__init__()
        self.hidden = nn.Linear(int(np.prod(spec.shape)), width)
        self.head = nn.Linear(width, spec.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(inputs.flatten(1))))


def of(forward: Forward) -> type[nn.Module]:
    """Return a model function whose module passes itself and its inputs to `forward`."""

    class Own(Perceptron):
        def forward(self, inputs: Tensor) -> Any:
            return forward(self, super().forward, inputs)

    return Own


def model_factory(change: Callable[[Any, InputSpec], Any]) -> Callable[[InputSpec], Any]:
    """Return a model function that changes a sound module before it returns it."""

    def make(spec: InputSpec) -> Any:
        model = Perceptron(spec)
        return change(model, spec) or model

    return make


def _leaving(code: int) -> Forward:
    def forward(_own: nn.Module, _call: Callable[[Tensor], Tensor], _inputs: Tensor) -> Tensor:
        os._exit(code)

    return forward


class _Generated(Perceptron):
    def __init__(self, spec: InputSpec) -> None:
        super().__init__(spec)
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.rand(len(inputs), 1, generator=self.generator)
        return super().forward(inputs) * noise


class _Counting(Perceptron):
    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) * self.calls


class _Late(Perceptron):
    """Its own randomness begins after the calls that check it."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) * (1.0 if self.calls <= CHECKED else 1.0 + random.random())


class _OnlyBuffers(nn.Module):
    weight: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(spec.classes, int(np.prod(spec.shape))))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight.T


class _Silent(nn.Module):
    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(spec.classes))


class _Looking(Perceptron):
    """Pixels as keys of a table, which has a sparse gradient."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__(spec)
        self.table = nn.Embedding(20, spec.classes, sparse=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + self.table(inputs.flatten(1).abs().long().clamp(0, 19)).mean(1)


def _expanded(model: Any, spec: InputSpec) -> None:
    model.head.bias = nn.Parameter(torch.zeros(1).expand(spec.classes))


def _not_finite(model: Any, _spec: InputSpec) -> None:
    model.head.bias.data.fill_(float("nan"))


def _overflowing(model: Any, _spec: InputSpec) -> None:
    model.head.weight.data.fill_(3e38)


def _one_complex(model: Any, _spec: InputSpec) -> None:
    model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))


def _compiled(model: Any, _spec: InputSpec) -> nn.Module:
    compiled = nn.Sequential(model)
    compiled._orig_mod = model  # what torch.compile leaves, without its compiler
    return compiled


def _called_once(model: Any, spec: InputSpec) -> nn.Module:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(spec.classes))
    lazy(torch.zeros(1, *spec.shape))
    return lazy


def _named_differently(model: Any, _spec: InputSpec) -> None:
    model.register_parameter(f"extra_{next(_calls)}", nn.Parameter(torch.zeros(2)))


def _weights_of_numpy(model: Any, _spec: InputSpec) -> None:
    model.head.weight.data = torch.from_numpy(np.random.default_rng().normal(size=(10, 12))).float()


def _normed(model: Any, spec: InputSpec) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, spec.classes))


def _spectral(model: Any, _spec: InputSpec) -> None:
    nn.utils.parametrizations.spectral_norm(model.hidden)


plain = model_factory(lambda _model, _spec: None)
dropping = of(lambda _own, call, inputs: nn.functional.dropout(call(inputs), 0.3))
normed = model_factory(_normed)
spectral = model_factory(_spectral)
lazy_but_called = model_factory(_called_once)
partly_frozen = model_factory(lambda model, _spec: model.hidden.requires_grad_(False) and None)
too_few_scores = of(lambda _own, call, inputs: call(inputs)[:, :3])
a_score_of_the_batch = of(lambda _own, call, inputs: call(inputs).mean(0, keepdim=True))
three_dimensions = of(lambda _own, call, inputs: call(inputs)[:, None])
one_number = of(lambda _own, call, inputs: call(inputs).mean())
a_tuple = of(lambda _own, call, inputs: (call(inputs), inputs))
a_mapping = of(lambda _own, call, inputs: {"logits": call(inputs)})
a_named_tuple = of(lambda _own, call, inputs: Answer(call(inputs)))
nothing = of(lambda _own, _call, _inputs: None)
classes_found = of(lambda _own, call, inputs: call(inputs).argmax(1))
half_scores = of(lambda _own, call, inputs: call(inputs).half())
detached = of(lambda _own, call, inputs: call(inputs).detach())
of_inputs_alone = of(lambda _own, _call, inputs: inputs.flatten(1)[:, :10].clone().requires_grad_())
in_place = of(lambda _own, call, inputs: call(inputs.mul_(2.0)))
in_place_same_values = model_factory(lambda model, _spec: nn.Sequential(nn.ReLU(inplace=True), model))
raising = of(lambda _own, _call, _inputs: {}["layer"])
exits = of(lambda _own, _call, _inputs: sys.exit(3))
leaves = of(_leaving(0))
no_forward = _Silent
bfloat = model_factory(lambda model, _spec: model.bfloat16())
half = model_factory(lambda model, _spec: model.half())
double = model_factory(lambda model, _spec: model.double())
one_complex = model_factory(_one_complex)
double_buffer = model_factory(lambda model, _spec: model.register_buffer("seen", torch.zeros(1, dtype=torch.float64)))
elsewhere = model_factory(lambda model, _spec: model.to("meta"))
lazy = model_factory(lambda _model, spec: nn.Sequential(nn.Flatten(), nn.LazyLinear(spec.classes)))
parallel = model_factory(lambda model, _spec: nn.DataParallel(model))
compiled = model_factory(_compiled)
only_buffers = _OnlyBuffers
frozen = model_factory(lambda model, _spec: model.requires_grad_(False))
empty = model_factory(lambda model, _spec: model.register_parameter("nothing", nn.Parameter(torch.empty(0, 3))))
expanded = model_factory(_expanded)
not_finite = model_factory(_not_finite)
overflowing = model_factory(_overflowing)
sparse = _Looking
random_drop = of(lambda _own, call, inputs: call(inputs) * (random.random() > 0.5) + random.random())
numpy_noise = of(lambda _own, call, inputs: call(inputs) + float(np.random.default_rng().normal()))
own_generator = _Generated
counting = _Counting
late = _Late
named_differently = model_factory(_named_differently)
weights_of_numpy = model_factory(_weights_of_numpy)
a_class = model_factory(lambda _model, _spec: Perceptron)
a_number = model_factory(lambda _model, _spec: 7)


def scripted(spec: InputSpec) -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, spec.classes)))


def wants_more(spec: InputSpec, width: int) -> nn.Module:
    return Perceptron(spec, width)


def exits_at_once(_spec: InputSpec) -> nn.Module:
    sys.exit("not today")


def leaves_at_once(_spec: InputSpec) -> nn.Module:
    os._exit(7)
