"""ALLoRA: y = W x + b + B A x without dropout or scale; each output unit's gradient is weighed by its own c_i.

    c_i = 1 / sqrt(||w_i|| + 1 / eta^2),    dB = diag(c) G^T (x A^T),    dA = B^T diag(c) G^T x,    dx = G (W + B A)

with G = dL/dy and w_i row i of what the adapter is now: eta at first, less as the row grows.
Paper: Huang, Balestriero 2024, arXiv 2410.09692. The abstract alone was at hand, which fixes "inversely proportional to
the l2 norm of the parameters"; hence a family of rules by name, and the form above as the default. c is a constant of
each step's gradient, and what earlier layers get is not weighed, so that depth does not compound the factors.

What it may leak: all that LoRA does, without LoRA's dropout in the way. c follows from public weights, so the server
divides by it; dropout at least hides which entries were read.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.adapter._low_rank import LowRankConfig, LowRankLinear, adapted
from fedsim.hooks import IMAGES_AND_TEXT, ModelComponent, Rules
from fedsim.registry import component
from fedsim.types import Modality, PublicKnowledge, Tensors

_A, _B = ".lora_a.weight", ".lora_b.weight"


class AlloraConfig(LowRankConfig):
    """Settings of ALLoRA."""

    eta: float = Field(default=5.0, gt=0, description="c while the adapter is zero, its maximum")
    power: Literal["sqrt", "inverse", "none"] = Field(
        default="sqrt", description="c = 1 / sqrt(norm + 1 / eta^2), or 1 / (norm + 1 / eta), or 1"
    )
    norm: Literal["B", "BA"] = Field(default="B", description="w_i is row i of B, or of the product B A")
    dependence: Literal["weight", "output"] = Field(
        default="weight", description="output: the norm is that of each example's own (B A x)_i"
    )
    apply_to: Literal["gradient", "update"] = Field(
        default="gradient",
        description="update: the optimizer's step on row i of B is multiplied by c_i, and no gradient is. Adam divides "
        "a constant factor of a gradient out again",
    )

    @model_validator(mode="after")
    def _updates_depend_on_weights(self) -> Self:
        if self.apply_to == "update" and self.dependence == "output":
            raise ValueError("apply_to is 'update', which knows no single example: expected dependence = 'weight'")
        return self

    def factors(self, norms: Tensor) -> Tensor:
        """Return c for norms of any shape."""
        if self.power == "none":
            return torch.ones_like(norms)
        if self.power == "inverse":
            return 1.0 / (norms + 1.0 / self.eta)
        return (norms + 1.0 / self.eta**2).rsqrt()

    def of_rows(self, a: Tensor, b: Tensor) -> Tensor:
        """Return c of each output unit, shape (..., out), from A (..., r, in) and B (..., out, r)."""
        return self.factors(torch.linalg.vector_norm(b, dim=-1) if self.norm == "B" else product_norms(a, b))


@final
@component("allora", hook="adapter", summary="LoRA whose gradient shrinks as the adapter grows", paper="2410.09692")
class Allora(ModelComponent[AlloraConfig]):
    """Puts adapters on linear layers and freezes everything else."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with adapters.

        Raises:
            NotApplicable: a pattern matches no linear layer, or the rank is above a layer's width.
        """
        return adapted(model, "allora", self.config, lambda layer: AlloraLinear(layer, self.config, generator))

    def step_factors(self, parameters: Tensors) -> Tensors:
        """Return c of the rows of every B, shape (..., out, 1), where it belongs to the step."""
        if self.config.apply_to == "gradient":
            return {}
        layers = [name.removesuffix(_B) for name in parameters if name.endswith(_B)]
        return {
            f"{name}{_B}": self.config.of_rows(parameters[f"{name}{_A}"], parameters[f"{name}{_B}"]).unsqueeze(-1)
            for name in layers
        }

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse to weigh local steps where there are none."""
        if self.config.apply_to == "update" and rules.algorithm == "fedsgd":
            return "apply_to = 'update' weighs a client's own steps, and federation.algorithm = 'fedsgd' has none"
        return None

    def public_view(self) -> PublicKnowledge:
        """Return the rule; the weights that it reads are public."""
        return PublicKnowledge("allora", self.config.model_dump())


@final
class AlloraLinear(LowRankLinear):
    """A frozen linear layer with an ALLoRA adapter beside it."""

    def __init__(self, base: nn.Linear, config: AlloraConfig, generator: torch.Generator) -> None:
        super().__init__(base, config.rank, generator)
        self._config = config
        self._is_plain = config.apply_to == "update" or config.power == "none"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return W x + b + B A x."""
        if self._is_plain:
            return self.base(inputs) + self.lora_b(self.lora_a(inputs))
        adapter = self.lora_b(self.lora_a(inputs))
        return self.base(inputs) + _weighed(adapter, inputs, self.lora_a.weight, self.lora_b.weight, self._config)

    def factors(self) -> Tensor:
        """Return c of each output unit as the weights are now, shape (out,)."""
        return self._config.of_rows(self.lora_a.weight, self.lora_b.weight)


def product_norms(a: Tensor, b: Tensor) -> Tensor:
    """Return the norms of the rows of B A, shape (..., out): sqrt(b_i (A A^T) b_i^T), without the product."""
    squares = ((b @ (a @ a.mT)) * b).sum(-1)
    is_positive = squares > 0
    # The square root has no derivative at zero, where every row starts.
    return torch.where(is_positive, torch.where(is_positive, squares, 1.0).sqrt(), 0.0)


def _weighed(adapter: Tensor, inputs: Tensor, a: Tensor, b: Tensor, config: AlloraConfig) -> Tensor:
    """Return `adapter` = B A x as it is; the gradient of A and B is weighed by c, and that of x is not."""
    return _Weighed.apply(adapter, inputs, a, b, config)  # pyright: ignore[reportReturnType]


class _Weighed(torch.autograd.Function):
    """The identity on its first argument, whose gradient is weighed; x gets back what that takes from it.

    c is no part of the loss, so the gradient of it is never taken; but it is a part of the gradient, and whoever
    differentiates the gradient once more, as an attacker does, gets c's derivative too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(adapter: Tensor, inputs: Tensor, a: Tensor, b: Tensor, config: AlloraConfig) -> Tensor:
        return adapter.view_as(adapter)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        adapter, _, a, b, ctx.config = inputs
        ctx.save_for_backward(adapter, a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        adapter, a, b = ctx.saved_tensors
        config: AlloraConfig = ctx.config
        if config.dependence == "output":
            weighed = gradient * config.factors(adapter.abs())
            taken = (gradient - weighed) @ b
        else:
            c = config.of_rows(a, b)
            weighed = gradient * c
            taken = gradient @ (b - c.unsqueeze(-1) * b)
        return weighed, taken @ a if ctx.needs_input_grad[1] else None, None, None, None
