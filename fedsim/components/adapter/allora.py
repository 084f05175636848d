"""allora: LoRA without dropout or scale, whose gradient shrinks as the adapter grows.

Idea: Each output unit's gradient gets its own factor c_i: eta at first, less as its row of B A grows.
Equation: y = W x + b + B A x, G = dL/dy, w_i row i of B A: c_i = 1 / sqrt(||w_i|| + 1 / eta^2);
    dB = diag(c) G^T (x A^T), dA = B^T diag(c) G^T x, dx = G (W + B A). c is constant within a step; dx has no c.
Assumes: linear layers; `apply_to = 'update'` needs local steps.
Leaks: as LoRA, without its dropout: c is a function of public weights, so the server can divide by it.
Fails: with Adam, which is invariant to a constant factor of a gradient; `apply_to = 'update'` scales the step instead.
Source: Huang, Balestriero 2024, arXiv 2410.09692, not read; form and defaults follow two public third-party
    implementations, and alternative readings are settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankConfig, LowRankLinear, adapt
from fedsim.core.hooks import IMAGES_AND_TEXT, Adapter, PublicFederation
from fedsim.core.registry import component
from fedsim.core.types import MethodDescription, Modality, Tensors

_A, _B = ".lora_a.weight", ".lora_b.weight"


class AlloraConfig(LowRankConfig):
    """Settings of ALLoRA."""

    eta: float = Field(default=2.0, gt=0, description="factor c of an adapter that is zero, its maximum")
    power: Literal["sqrt", "inverse", "none"] = Field(
        default="sqrt", description="c = 1 / sqrt(norm + 1 / eta^2), or 1 / (norm + 1 / eta), or 1"
    )
    norm: Literal["B", "BA"] = Field(default="BA", description="whether w_i is row i of the product B A, or of B")
    dependence: Literal["weight", "output"] = Field(
        default="weight", description="weight: the norm of w_i; output: that of each example's (B A x)_i"
    )
    apply_to: Literal["gradient", "update"] = Field(
        default="gradient",
        description="gradient: c multiplies gradients; update: c_i multiplies the optimizer's step on row i of B. Adam "
        "divides out a constant factor of a gradient",
    )

    @model_validator(mode="after")
    def _updates_depend_on_weights(self) -> Self:
        if self.apply_to == "update" and self.dependence == "output":
            raise ValueError("apply_to = 'update' has no single examples: expected dependence = 'weight'")
        return self

    def factors(self, norms: Tensor) -> Tensor:
        """Return c for norms of any shape."""
        if self.power == "none":
            return torch.ones_like(norms)
        if self.power == "inverse":
            return 1.0 / (norms + 1.0 / self.eta)
        return (norms + 1.0 / self.eta**2).rsqrt()

    def output_factors(self, a: Tensor, b: Tensor, read: Tensor) -> Tensor:
        """Return c per output unit, (out,); with `dependence = 'output'`, c per entry of `read` (..., r) @ B^T."""
        return self.row_factors(a, b) if self.dependence == "weight" else self.factors((read @ b.mT).abs())

    def row_factors(self, a: Tensor, b: Tensor) -> Tensor:
        """Return c per output unit, shape (..., out), from A (..., r, in) and B (..., out, r)."""
        return self.factors(
            torch.linalg.vector_norm(b.contiguous(), dim=-1) if self.norm == "B" else product_norms(a, b)
        )


@final
@component(
    "allora",
    summary="LoRA with a gradient that shrinks as the adapter grows",
    tier="research",
    paper="2410.09692",
    fidelity="variant",
    deviates="the gradient's factor follows two public implementations by others",
    paper_steps=(
        ("factor of each row from the norm of its product", "AlloraConfig.factors"),
        ("gradients of A and B with the factors, inputs without", "_Weighed"),
        ("no dropout and no scale", "AlloraLinear.forward"),
    ),
)
class Allora(Adapter[AlloraConfig]):
    """Puts adapters on linear layers and freezes all other parameters."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with adapters.

        Raises:
            NotApplicable: a pattern matches no linear layer, or the rank is above a layer's width.
        """
        is_plain = self.config.apply_to == "update" or self.config.power == "none"

        def adapter(layer: nn.Linear) -> LowRankLinear:
            if is_plain:
                return LowRankLinear(layer, self.config.rank, generator)
            return AlloraLinear(layer, self.config, generator)

        return adapt(model, "allora", self.config, adapter)

    def step_factors(self, parameters: Tensors) -> Tensors:
        """Return c per row of each B, shape (..., out, 1), if c multiplies the optimizer step."""
        if self.config.apply_to == "gradient":
            return {}
        layers = [name.removesuffix(_B) for name in parameters if name.endswith(_B)]
        return {
            f"{name}{_B}": self.config.row_factors(parameters[f"{name}{_A}"], parameters[f"{name}{_B}"]).unsqueeze(-1)
            for name in layers
        }

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse `apply_to = 'update'` with FedSGD, which has no local steps."""
        if self.config.apply_to == "update" and federation.algorithm == "fedsgd":
            return "apply_to = 'update' weighs a client's local steps, and federation.algorithm = 'fedsgd' has none"
        return None

    def public_description(self) -> MethodDescription:
        """Return the settings; c depends only on public weights."""
        return MethodDescription("allora", settings=self.config.model_dump())


@final
class AlloraLinear(LowRankLinear):
    """A frozen linear layer with an ALLoRA adapter, whose gradients are scaled by c."""

    def __init__(self, base: nn.Linear, config: AlloraConfig, generator: torch.Generator) -> None:
        super().__init__(base, config.rank, generator)
        self._config = config

    def forward(self, inputs: Tensor) -> Tensor:
        """Return W x + b + B A x."""
        a, b, base = self.lora_a.weight, self.lora_b.weight, self.base(inputs)
        rows = inputs.reshape(-1, self.in_features)
        outputs = _Weighed.apply(base.reshape(-1, self.out_features), rows, a @ rows.mT, a, b, self._config)
        return outputs.view_as(base)  # pyright: ignore[reportOptionalMemberAccess]

    def calls(self, inputs: Tensor, gradient: Tensor) -> Iterator[tuple[nn.Linear, Tensor, Tensor]]:
        """Yield each factor with its input (..., in) and its output gradient (..., out), as in a call of that layer."""
        read = self.lora_a(inputs)
        weighed = gradient * self._config.output_factors(self.lora_a.weight, self.lora_b.weight, read)
        yield self.lora_a, inputs, weighed @ self.lora_b.weight
        yield self.lora_b, read, weighed

    def factors(self) -> Tensor:
        """Return c per output unit at the current weights, shape (out,)."""
        return self._config.row_factors(self.lora_a.weight, self.lora_b.weight)


def product_norms(a: Tensor, b: Tensor) -> Tensor:
    """Return the norms of the rows of B A, shape (..., out): sqrt(b_i (A A^T) b_i^T), without the product."""
    squares = ((b @ (a @ a.mT)) * b).sum(-1)
    is_positive = squares > 0
    # The square root has no derivative at zero, and all rows of B A start at zero.
    return torch.where(is_positive, torch.where(is_positive, squares, 1.0).sqrt(), 0.0)


class _Weighed(torch.autograd.Function):
    """y + B A x with c applied to the gradients of A and B, but not to that of x.

    The loss does not contain c, so the backward pass does not differentiate c. The gradient contains c, so the second
    derivative (used by gradient inversion) includes the derivative of c. Matrices (N, r) are stored as (r, N), because
    products with few columns are slow.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, x: Tensor, read: Tensor, a: Tensor, b: Tensor, config: AlloraConfig) -> Tensor:
        """Return y + B A x, shape (N, out), from y, x (N, in), A x (r, N), A and B."""
        return torch.addmm(y, read.mT, b.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *tensors, ctx.config = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, read, a, b = ctx.saved_tensors
        config: AlloraConfig = ctx.config
        if config.dependence == "output":
            weighed = gradient * config.output_factors(a, b, read.mT)
            of_read, of_read_weighed = b.mT @ gradient.mT, b.mT @ weighed.mT
            of_b = (read @ weighed).mT
        else:
            c = config.row_factors(a, b)
            of_read, of_read_weighed = (torch.cat((b.mT, b.mT * c)) @ gradient.mT).chunk(2)
            of_b = (read @ gradient * c).mT
        # The gradients of x and A returned here are complete, so A x gets none.
        return gradient, of_read.mT @ a if ctx.needs_input_grad[1] else None, None, of_read_weighed @ x, of_b, None


# Cache the signature: `apply` inspects it on each call, which is as slow as a matrix product.
_Weighed.forward.__signature__ = signature(_Weighed.forward)  # pyright: ignore[reportFunctionMemberAccess]
