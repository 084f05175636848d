"""decoy-batch: trains on a changed batch x' with nearly the same gradient and different images.

The search stays within the batch's range of values and runs without dropout. A small l hardly changes the image, a
large l leaves a larger gap than sending zeros. The paper uses a perceptual network, and no division. No standard attack
is known here; membership tests on x see only the gap.

Idea: A small gap between gradients keeps utility; a large distance between images keeps privacy.
Equation: minimise |g(x') - g(x)|^2 / |g(x)|^2 - l (1 - SSIM(x', x)) by Adam, from x plus noise; l is the weight.
Assumes: images (other inputs have no distance term). The data range of SSIM is the batch's range of values.
Protects: x, as far as x' does not show it; the client uploads g(x'). No guarantee: compare x' and x before you use it.
Fails: inversion returns x'; where the gradient determines the input, the gap pulls x' back to x.
Source: inspired by Refiner, Fan et al. 2022, arXiv 2212.02042; 1 - SSIM replaces its learned network, and the gap is
    relative here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from defenses.core.inside import outputs_of
from fedsim.components.optimizer.adam import Adam, AdamConfig
from fedsim.core.hooks import Defense, HookContext, LocalStep, Place
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.registry import defense
from fedsim.core.types import Batch, Config, MethodDescription
from fedsim.metrics.image import ssim

_LEAST_RANGE = 1e-6
_SMALLEST_SIDE = 3


class DecoyBatchConfig(Config):
    """Settings of decoy batches."""

    distance_weight: float = Field(default=1.0, ge=0, description="weight l of 1 - SSIM, relative to the gradient gap")
    steps: int = Field(default=20, ge=0, description="Adam steps, with two second-order gradients each")
    learning_rate: float = Field(default=0.1, gt=0, description="step size of Adam, in normalised input units")
    noise: float = Field(
        default=0.1, ge=0, description="standard deviation of the first noise, in normalised input units"
    )


@final
@defense(
    "decoy-batch",
    aliases=("refiner",),
    summary="trains on other images with nearly the same gradient",
    tier="research",
    paper="2212.02042",
    fidelity="inspired",
    deviates="1 - SSIM replaces its learned network; the gap is relative",
    paper_steps=(
        ("trade-off of gradient gap and image distance", "DecoyBatch._objective"),
        ("gap of the gradients", "DecoyBatch._objective"),
        ("distance by a learned network", ""),
    ),
)
class DecoyBatch(Defense[DecoyBatchConfig]):
    """Searches for x' without dropout, within the batch's range of values."""

    place: ClassVar[Place] = "batch"
    needs_step: ClassVar[bool] = True

    def on_batch(self, batch: Batch, context: HookContext) -> Batch:
        """Return x' with the labels of x."""
        assert context.local is not None
        inputs, (low, high) = batch.inputs, batch.inputs.aminmax()
        noise = torch.randn(inputs.shape, generator=context.generator, dtype=inputs.dtype)
        changed = (inputs + self.config.noise * noise).clamp(low, high)
        objective = self._objective(batch, context.local, low, high)
        variable = changed.requires_grad_()
        adam, state = Adam(AdamConfig(learning_rate=self.config.learning_rate)), dict[str, Tensor]()
        for _ in range(self.config.steps):
            (slope,) = torch.autograd.grad(objective(variable), [variable])
            with torch.no_grad():
                adam.step({"x": variable}, {"x": slope}, state)
                variable.clamp_(low, high)
        return replace(batch, inputs=variable.detach())

    def adaptive_view(self) -> MethodDescription:
        """Return the settings of the search."""
        return MethodDescription("decoy-batch", settings=self.config.model_dump())

    def _objective(self, batch: Batch, local: LocalStep, low: Tensor, high: Tensor) -> Callable[[Tensor], Tensor]:
        wanted = [g.detach() for g in _gradient(local, batch.inputs, batch.labels)]
        size = sum(float(g.square().sum()) for g in wanted) or 1.0
        width = (high - low).clamp_min(_LEAST_RANGE)
        is_image = batch.inputs.ndim == 4 and min(batch.inputs.shape[2:]) >= _SMALLEST_SIDE  # noqa: PLR2004

        def objective(changed: Tensor) -> Tensor:
            pairs = zip(_gradient(local, changed, batch.labels), wanted, strict=True)
            gap = torch.stack([(ours - theirs).square().sum() for ours, theirs in pairs]).sum() / size
            if not is_image:
                return gap
            likeness = ssim((changed - low) / width, (batch.inputs - low) / width).mean()
            return gap - self.config.distance_weight * (1.0 - likeness).to(gap)

        return objective


def _gradient(local: LocalStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient at `inputs`, differentiable in them; the model's buffers do not change."""
    loss = cross_entropy(outputs_of(local, inputs), labels)
    return tuple(gradient_of(loss, local.parameters, create_graph=inputs.requires_grad).values())
