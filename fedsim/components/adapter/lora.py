"""LoRA: y = W x + b + s B A drop(x), with W and b frozen, and only A (r, in) and B (out, r) trained and sent.

Paper: Hu et al. 2021, arXiv 2106.09685, section 4.1: s = alpha / r; or alpha / sqrt(r) (Kalajdzievski 2023, arXiv
2312.03732). A starts uniform in +-1 / sqrt(in), B at zero, so that the model starts unchanged. What it may leak: the
rows of A's gradient are combinations of what the layer reads, up to r of them, and B's gradient shows them through A.
In the first round A has no gradient, since B is zero. A server that averages A and B does not average their products.
"""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Iterable
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.errors import NotApplicable, nearest
from fedsim.hooks import IMAGES_AND_TEXT, ModelComponent
from fedsim.registry import component
from fedsim.types import Config, Modality


class LoraConfig(Config):
    """Settings of LoRA."""

    targets: tuple[str, ...] = Field(
        min_length=1,
        description="patterns of the names of linear layers that get an adapter",
        examples=[("1",), ("*.q_proj", "*.v_proj")],
    )
    rank: int = Field(default=8, ge=1, description="r, at most the layer's inputs and outputs")
    alpha: float = Field(default=16.0, gt=0, description="the adapter's output is scaled by alpha over the rank")
    scaling: Literal["rank", "root-rank"] = Field(default="rank", description="alpha / r, or alpha / sqrt(r)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping an entry that A reads")

    @property
    def scale(self) -> float:
        """The factor s."""
        return self.alpha / (self.rank if self.scaling == "rank" else math.sqrt(self.rank))


@final
@component("lora", hook="adapter", summary="trains low-rank changes of frozen linear layers", paper="2106.09685")
class Lora(ModelComponent[LoraConfig]):
    """Puts adapters on linear layers and freezes everything else."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with adapters.

        Raises:
            NotApplicable: a pattern matches no linear layer, or the rank is above a layer's width.
        """
        layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
        chosen: dict[str, nn.Linear] = {}
        for pattern in self.config.targets:
            matching = fnmatch.filter(layers, pattern)
            if not matching:
                raise NotApplicable(
                    f"component 'lora': no linear layer matches '{pattern}'.{nearest(pattern, _patterns(layers))}"
                )
            chosen |= {name: layers[name] for name in matching}
        model.requires_grad_(False)
        for name, layer in chosen.items():
            width = min(layer.in_features, layer.out_features)
            if self.config.rank > width:
                raise NotApplicable(
                    f"component 'lora': rank is {self.config.rank}, expected at most {width}, the width of '{name}'."
                )
            model.set_submodule(name, LoraLinear(layer, self.config, generator))
        return model


def _patterns(names: Iterable[str]) -> set[str]:
    """Return short patterns for names of modules: a large model repeats the same few in every block."""
    return {f"*.{own}" if parent else own for parent, _, own in (name.rpartition(".") for name in names)}


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank adapter beside it: inputs (..., in), outputs (..., out)."""

    def __init__(self, base: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base.requires_grad_(False)
        self.dropout = nn.Dropout(config.dropout)
        bound = 1.0 / math.sqrt(base.in_features)
        started = torch.empty(config.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(started.to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, config.rank))
        self.scale = config.scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output plus the adapter's."""
        return self.base(inputs) + self.scale * (self.dropout(inputs) @ self.lora_a.T @ self.lora_b.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return one ordinary layer that does the same in evaluation: W + s B A."""
        layer = copy.deepcopy(self.base)
        layer.weight += self.scale * self.lora_b @ self.lora_a
        return layer.requires_grad_(True)


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which ordinary linear layers have taken in their adapters."""
    plain = copy.deepcopy(model)
    for name, layer in [(n, m) for n, m in plain.named_modules() if isinstance(m, LoraLinear)]:
        plain.set_submodule(name, layer.merged())
    return plain.requires_grad_(True)
