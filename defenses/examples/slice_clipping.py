"""slice-clipping: bounds the contribution of each example to each slice of the gradient.

It stores the gradient of every example and, like DP-SGD, refuses models and components that mix examples. Noise comes
from `grad-defense`, which may be used with it. The bound costs accuracy.

Idea: The optional first half of `grad-defense`: after clipping, the noise on a slice is large compared with an
    example's contribution.
Equation: g'_s = 1/B sum over i in the batch of g_is min(1, C / ||g_is||), for each slice s of the flat gradient; slices
    are equally sensitive to the input.
Assumes: a model with separable per-example gradients, and no loss terms.
Protects: the norm of an example's contribution to a slice. No differential privacy: the cuts depend on the batch.
Fails: the direction of a single example's slices remains, and matching directions recovers it.
Source: Wang et al. 2022 (INFOCOM), "Protect Privacy from Gradient Leakage Attack in Federated Learning".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.core.slices import sensitivities, slices_of
from fedsim.core.hooks import Defense, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription, Tensors
from fedsim.privacy.per_example import example_gradients, why_inseparable

_PROBE = 4  # examples in the batch that tests the model
_PARTNER = "GradDefense"  # only reads the batch, so examples stay separate
_SMALLEST_NORM = 1e-30


class SliceClippingConfig(Config):
    """Settings of slice clipping."""

    slices: int = Field(default=10, ge=1, description="slices of equal sensitivity")
    norm: float = Field(
        default=1e-2, gt=0, description="largest Euclidean norm of an example's slice, in units of the gradient"
    )


@final
@defense(
    "slice-clipping",
    summary="bounds every example in every slice of the gradient (GradDefense)",
    tier="research",
    paper="Wang 2022, INFOCOM",
    fidelity="variant",
    deviates="sensitivity is measured on the step's batch, not on a root set",
    paper_steps=(
        ("each example clipped in each slice", "SliceClipping._factors"),
        ("sensitivity on a public root set", ""),
    ),
)
class SliceClipping(Defense[SliceClippingConfig]):
    """Stores every example's gradient, and needs one more backward pass per tensor."""

    place: ClassVar[Place] = "examples"
    needs_step: ClassVar[bool] = True

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse losses that are not a mean over examples, and models that mix examples."""
        if federation.loss_terms:
            return f"the loss term {federation.loss_terms[0]} is not clipped. Leave it out"
        readers = [name for name in federation.batch_readers if name != _PARTNER]
        if readers:
            return f"{readers[0]} works on whole batches, so examples cannot be clipped apart. Leave it out"
        return why_inseparable(model, federation.probe(_PROBE), "hooks")

    def on_examples(self, losses: Callable[[], Tensor], context: HookContext) -> tuple[float, Tensors]:
        """Return the batch's mean loss and the mean clipped gradient; NaN and zeros for an empty batch."""
        local = context.local
        assert local is not None, "called in a local step"
        if not len(local.batch):
            return math.nan, {name: torch.zeros_like(p) for name, p in local.parameters.items()}
        sizes = {name: p.numel() for name, p in local.parameters.items()}
        slices = slices_of(sensitivities(local), sizes, self.config.slices)
        norms, gradients = example_gradients(local.model, local.parameters, losses)
        factors = self._factors(gradients, slices)
        return float(norms.mean()), {
            name: (gradient.reshape(len(gradient), -1) * factors[:, slices[name]]).mean(0).view(gradient.shape[1:])
            for name, gradient in gradients.items()
        }

    def adaptive_view(self) -> MethodDescription:
        """Return the bound and the number of slices; the cuts depend on the batch."""
        return MethodDescription("slice-clipping", settings=self.config.model_dump())

    def _factors(self, gradients: Tensors, slices: Tensors) -> Tensor:
        """Return the factor of each example's slices, shape (B, slices)."""
        squares = sum(
            torch.zeros(len(gradient), self.config.slices).index_add_(
                1, slices[name], gradient.reshape(len(gradient), -1).square()
            )
            for name, gradient in gradients.items()
        )
        assert isinstance(squares, Tensor), "a model has parameters"
        return (self.config.norm / squares.sqrt().clamp_min(_SMALLEST_NORM)).clamp_max(1.0)
