"""shaped-noise: puts noise along the directions of a gradient that depend on the inputs, and nowhere else.

Idea: to first order, at most as many of a gradient's P directions depend on the inputs as there are pixels. Noise on
    every entry spends nearly all of its norm on the others.
Equation: g' = g + r ||g|| J w / ||J w||, J = dg/dx, w ~ N(0, I) over the inputs: covariance in proportion to J J', so
    the most informative directions get most noise, and all become equally uncertain.
Assumes: a server that sees a single gradient; a model with second derivatives, images, cross-entropy as the loss.
Protects: all pixels alike from first-order attackers. No guarantee: the sensitivity to an image is not bounded.
Fails: against non-linear attacks: J w is a change of the image, so an exact attack may recover a noisy image from it;
    and against averaging over rounds.
Source: the spectrum of `fedsim.questions.attacks.ceiling`. arXiv 2512.15460, named as a model, was not read.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from defenses.core.inside import outputs_of
from fedsim.core.hooks import Defense, Distortion, HookContext, LocalStep, Place, PublicFederation
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription, Tensors
from fedsim.core.types.effects import Noise


class ShapedNoiseConfig(Config):
    """Settings of shaped noise."""

    scale: float = Field(default=0.3, ge=0, description="norm of the noise, in units of the gradient's norm")


@final
@defense(
    "shaped-noise",
    summary="noise along the directions of a gradient that carry information about the inputs",
    tier="baseline",
)
class ShapedNoise(Defense[ShapedNoiseConfig]):
    """Needs three more backward passes at every local step."""

    place: ClassVar[Place] = "noise"
    needs_step: ClassVar[bool] = True

    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the gradient plus noise; unchanged for an empty batch."""
        if context.local is None or not self.config.scale or not len(context.local.batch):
            return gradient
        noise = push_forward(context.local, context.generator)
        length = _norm(noise)
        if not float(length):
            return gradient
        factor = self.config.scale * _norm(gradient) / length
        return {name: tensor + factor * noise[name] for name, tensor in gradient.items()}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return noise of covariance J J', scaled to the mean of its fixed norm."""
        return Distortion(spread=self._columns if self.config.scale else None)

    def _columns(self, gradient: Tensors, inputs: Tensor) -> Tensors:
        """Return r ||g|| J / ||J||, column by column: ||J w|| is ||J|| in the root mean square."""
        slopes = derivative(gradient, inputs)
        size = _norm(slopes)
        factor = self.config.scale * _norm(gradient).detach() / size if float(size) else 0.0
        return {name: factor * columns for name, columns in slopes.items()}

    def adaptive_view(self) -> MethodDescription:
        """Return the noise distribution; its scale differs by direction."""
        return MethodDescription("shaped-noise", (Noise("gaussian"),) if self.config.scale else ())


def push_forward(local: LocalStep, generator: torch.Generator) -> Tensors:
    """Return the first-order change of a step's gradient along a random change of its inputs: J w."""
    inputs = local.batch.inputs.detach().clone().requires_grad_()
    loss = cross_entropy(outputs_of(local, inputs), local.batch.labels)
    gradient = gradient_of(loss, local.parameters, create_graph=True)
    duals = {name: torch.zeros_like(tensor).requires_grad_() for name, tensor in gradient.items()}
    paired = torch.stack([(gradient[name] * duals[name]).sum() for name in gradient]).sum()
    slope = torch.autograd.grad(paired, inputs, create_graph=True, materialize_grads=True)[0]
    change = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    pushed = torch.autograd.grad(
        (slope * change).sum(), list(duals.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(duals, pushed, strict=True))


def derivative(gradient: Tensors, inputs: Tensor) -> Tensors:
    """Return J, the derivative of a gradient with respect to each input entry, (inputs.numel(), *tensor.shape) each."""
    duals = {name: torch.zeros_like(tensor).requires_grad_() for name, tensor in gradient.items()}
    paired = torch.stack([(gradient[name] * duals[name]).sum() for name in gradient]).sum()
    slope = torch.autograd.grad(paired, inputs, create_graph=True, materialize_grads=True)[0].flatten()
    columns = [
        torch.autograd.grad(entry, list(duals.values()), retain_graph=True, allow_unused=True, materialize_grads=True)
        for entry in slope
    ]
    return {name: torch.stack(rows) for name, rows in zip(duals, zip(*columns, strict=True), strict=True)}


def _norm(tensors: Tensors) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors.values()]).norm()
