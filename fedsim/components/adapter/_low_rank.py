"""What low-rank adapters share: which layers get one, its two factors, and the ordinary model that it becomes."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable, nearest
from fedsim.core.types import Config


class LowRankConfig(Config):
    """Settings of every low-rank adapter."""

    targets: tuple[str, ...] = Field(
        min_length=1,
        description="patterns of the names of linear layers that get an adapter",
        examples=[("1",), ("*.q_proj", "*.v_proj")],
    )
    rank: int = Field(default=8, ge=1, description="r, at most the layer's inputs and outputs")
    also_train: tuple[str, ...] = Field(
        default=(),
        description="patterns of the names of parameters that stay trained in full, as a new output layer must",
        examples=[("*lm_head.*",)],
    )


class LowRankLinear(nn.Module):
    """A frozen linear layer with a low-rank adapter beside it: inputs (..., in), outputs (..., out).

    Both factors are ordinary linear layers without a bias, so that whatever knows linear layers knows them: A reads
    what the layer reads and has weight (r, in), uniform in +-1 / sqrt(in) at first; B has weight (out, r), zero at
    first, and lies in memory by columns: both products of its backward pass are then a half or a third as long.

    Attributes:
        scale: the factor s of the adapter's output.
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
        """Return W x + b + B (s A x): the factor costs least on the few entries in the middle."""
        return self.base(inputs) + self.lora_b(self.scale * self.lora_a(inputs))

    @torch.no_grad()
    def change(self) -> Tensor:
        """Return what the adapter adds to the weight: s B A, shape (out, in)."""
        return self.scale * self.lora_b.weight @ self.lora_a.weight

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return one ordinary layer that does the same in evaluation: W + s B A."""
        layer = copy.deepcopy(self.base)
        layer.weight += self.change()
        return layer.requires_grad_(True)

    @torch.no_grad()
    def unmerged(self, layer: nn.Linear) -> nn.Linear:
        """Return the frozen layer that `layer` was before it took this adapter in: W - s B A."""
        layer = copy.deepcopy(layer)
        layer.weight -= self.change()
        return layer.requires_grad_(False)


def _factor(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    return layer


def adapted(
    model: nn.Module, method: str, config: LowRankConfig, adapter: Callable[[nn.Linear], LowRankLinear]
) -> nn.Module:
    """Freeze a model, but for what is also trained, and put an adapter on each chosen linear layer; it is changed.

    Raises:
        NotApplicable: a pattern matches no linear layer or no parameter, or the rank is above a layer's width.
    """
    layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    chosen: dict[str, nn.Linear] = {}
    for pattern in config.targets:
        matching = fnmatch.filter(layers, pattern)
        if not matching:
            raise NotApplicable(
                f"component '{method}': no linear layer matches '{pattern}'.{nearest(pattern, _patterns(layers))}"
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
                f"{nearest(pattern, _patterns(parameters))}"
            )
        for name in matching:
            parameters[name].requires_grad_(True)
    return model


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which ordinary linear layers have taken in their adapters."""
    plain = copy.deepcopy(model)
    for name, layer in [(n, m) for n, m in plain.named_modules() if isinstance(m, LowRankLinear)]:
        plain.set_submodule(name, layer.merged())
    return plain.requires_grad_(True)


def _patterns(names: Iterable[str]) -> set[str]:
    """Return short patterns for names of modules: a large model repeats the same few in every block."""
    return {f"*.{own}" if parent else own for parent, _, own in (name.rpartition(".") for name in names)}
