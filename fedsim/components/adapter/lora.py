"""lora: freezes linear layers; trains and sends only a low-rank change of each.

Idea: Fine-tuning needs few directions. A starts uniform, B at zero, so the model starts unchanged.
Equation: y = W x + b + s B A drop(x), A (r, in) and B (out, r) trained, s = alpha / r or alpha / sqrt(r)
Assumes: linear layers at least r wide.
Leaks: rows of A's gradient are linear combinations of the layer's inputs, up to r of them; B's gradient contains the
    inputs projected by A. In the first round A's gradient is zero, since B is zero.
Fails: the product of averaged factors is not the average of the products B A. With A frozen it is (Sun et al. 2024,
    arXiv 2403.12313); aggregator `product-mean` averages the products.
Source: Hu et al. 2021, arXiv 2106.09685, section 4.1; root-rank scale: Kalajdzievski 2023, arXiv 2312.03732.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankConfig, LowRankLinear, adapt
from fedsim.core.hooks import ANYTHING, Adapter
from fedsim.core.registry import component
from fedsim.core.types import Modality


class LoraConfig(LowRankConfig):
    """Settings of LoRA."""

    alpha: float = Field(default=16.0, gt=0, description="numerator of the adapter's scale s")
    scaling: Literal["rank", "root-rank"] = Field(default="rank", description="s is alpha / r, or alpha / sqrt(r)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping an entry that A reads")
    trains: Literal["a-and-b", "b"] = Field(
        default="a-and-b",
        description="trained matrices; b: A keeps its initial values, so the mean of B gives the mean of the products",
    )

    @property
    def scale(self) -> float:
        """Factor s of the adapter's output."""
        return self.alpha / (self.rank if self.scaling == "rank" else math.sqrt(self.rank))


@final
@component(
    "lora",
    summary="freezes linear layers and trains a low-rank change of each",
    tier="core",
    paper="2106.09685",
    fidelity="reproduction",
    paper_steps=(
        ("low-rank change of a frozen layer", "LoraLinear.forward"),
        ("B starts at zero", "LoraLinear.__init__"),
        ("change merged into the weights", "fedsim.components.core.low_rank.LowRankLinear.merge_adapter"),
    ),
)
class Lora(Adapter[LoraConfig]):
    """Puts adapters on linear layers and freezes all other parameters."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with adapters.

        Raises:
            NotApplicable: a pattern matches no linear layer, or the rank is above a layer's width.
        """
        return adapt(model, "lora", self.config, lambda layer: LoraLinear(layer, self.config, generator))


@final
class LoraLinear(LowRankLinear):
    """A frozen linear layer with a LoRA adapter."""

    def __init__(self, base: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__(base, config.rank, generator)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.scale
        self.lora_a.requires_grad_(config.trains == "a-and-b")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return W x + b + B (s A drop(x))."""
        read = self.dropout(inputs) if self.dropout.p else inputs
        return self.base(inputs) + self.lora_b(self.scale * self.lora_a(read))
