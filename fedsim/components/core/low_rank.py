"""Low-rank adapters: target layers, factors, and merging into an ordinary model."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.types import Config


class LowRankConfig(Config):
    """Settings shared by all low-rank adapters."""

    targets: tuple[str, ...] = Field(
        min_length=1,
        description="name patterns of the linear layers that get an adapter",
        examples=[("1",), ("*.q_proj", "*.v_proj")],
    )
    rank: int = Field(default=8, ge=1, description="rank r, at most the layer's number of inputs and of outputs")
    also_train: tuple[str, ...] = Field(
        default=(),
        description="name patterns of further parameters that are trained in full, such as a new output layer",
        examples=[("*lm_head.*",)],
    )


class LowRankLinear(nn.Module):
    """A frozen linear layer with a low-rank adapter: inputs (..., in), outputs (..., out).

    Both factors are linear layers without bias, so code for linear layers applies to them. A has weight (r, in),
    initialised uniformly in +-1 / sqrt(in). B has weight (out, r), initialised at zero, and is stored by columns, which
    speeds up both products of its backward pass.

    Attributes:
        scale: factor s of the adapter's output.
    """

    scale: float = 1.0

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base.requires_grad_(False)
        bound = 1.0 / math.sqrt(base.in_features)
        started = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = _factor(started.to(base.weight))
        self.lora_b = _factor(base.weight.new_zeros(rank, base.out_features).T)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return W x + b + B (s A x); s multiplies the r intermediate entries, which is cheapest."""
        return self.base(inputs) + self.lora_b(self.scale * self.lora_a(inputs))

    @torch.no_grad()
    def change(self) -> Tensor:
        """Return s B A (out, in), the adapter's change of the weight."""
        return self.scale * self.lora_b.weight @ self.lora_a.weight

    @torch.no_grad()
    def merge_adapter(self) -> nn.Linear:
        """Return a linear layer with weight W + s B A, which has the same outputs in evaluation."""
        layer = copy.deepcopy(self.base)
        layer.weight += self.change()
        return layer.requires_grad_(True)


def _factor(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    return layer


def adapt(
    model: nn.Module, method: str, config: LowRankConfig, adapter: Callable[[nn.Linear], LowRankLinear]
) -> nn.Module:
    """Freeze a model in place, except `also_train`, and put an adapter on each chosen linear layer.

    Raises:
        NotApplicable: a pattern matches no linear layer or no parameter, or the rank is above a layer's width.
    """
    layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    chosen: dict[str, nn.Linear] = {}
    for pattern in config.targets:
        matching = fnmatch.filter(layers, pattern)
        if not matching:
            raise NotApplicable(
                f"component '{method}': no linear layer matches '{pattern}'.{did_you_mean(pattern, _patterns(layers))}"
            )
        chosen |= {name: layers[name] for name in matching}
    model.requires_grad_(False)
    for name, layer in chosen.items():
        width = min(layer.in_features, layer.out_features)
        if config.rank > width:
            raise NotApplicable(
                f"component '{method}': rank is {config.rank}, expected at most {width}, the width of '{name}'."
            )
        model.set_submodule(name, adapter(layer))
    parameters = dict(model.named_parameters())
    for pattern in config.also_train:
        matching = fnmatch.filter(parameters, pattern)
        if not matching:
            raise NotApplicable(
                f"component '{method}': also_train: no parameter matches '{pattern}'."
                f"{did_you_mean(pattern, _patterns(parameters))}"
            )
        for name in matching:
            parameters[name].requires_grad_(True)
    return model


def merge_adapters(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose adapters are merged into ordinary linear layers."""
    plain = copy.deepcopy(model)
    for name, layer in [(n, m) for n, m in plain.named_modules() if isinstance(m, LowRankLinear)]:
        plain.set_submodule(name, layer.merge_adapter())
    return plain.requires_grad_(True)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run a model with its frozen base layers only; other trained parameters stay."""
    layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(_apply_base).remove)
        yield


def _apply_base(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    assert isinstance(layer, LowRankLinear)
    return layer.base(*inputs)


def _patterns(names: Iterable[str]) -> set[str]:
    """Return name patterns with a wildcard for the parents, since blocks of a large model repeat the same names."""
    return {f"*.{last}" if parent else last for parent, _, last in (name.rpartition(".") for name in names)}
