"""Base class of client-side defenses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from fedsim.core.hooks.contexts import HookContext, PublicFederation
from fedsim.core.types import Batch, Mechanism, MethodDescription, Tensors, Update
from fedsim.core.types.configured import ConfigT, ConfiguredMethod

Place = Literal["received", "batch", "model", "examples", "layers", "norm", "entries", "noise", "rounding"]


PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Distortion:
    """First-order effect of a defense on a gradient, for the ideal attacker (`fedsim.questions.attacks.ceiling`).

    Attributes:
        change: differentiable map from the gradient to the sent update, without noise; None: identity.
        noise: maps the output of `change` to the standard deviation of the noise on each entry; returns None if
            rounding steps are too wide to count as noise. None: no noise.
        spread: correlated noise: maps the output of `change` and the examples (N, *shape) that it depends on to U, each
            (k, *tensor.shape); its covariance U U' is added to that of `noise`.
        change_examples: replaces `change`: maps per-example gradients, shape (B, *parameter.shape).
        reads_sent: whether the description was derived from the sent update, which does not show single local steps.
    """

    change: Callable[[Tensors], Tensors] | None = None
    noise: Callable[[Tensors], Tensors | None] | None = None
    spread: Callable[[Tensors, Tensor], Tensors] | None = None
    change_examples: Callable[[Tensors], Tensors] | None = None
    reads_sent: bool = False


class Defense(ConfiguredMethod[ConfigT]):
    """Changes what a client computes or sends. Subclasses override some methods; the others do nothing.

    Attributes:
        place: order among several defenses, equal to the folder; defenses of one place keep the scenario's order.
        needs_step: whether its methods read `HookContext.local`, which is unavailable when clients are trained
            together.
    """

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = False

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why the defense does not fit this federation or model, as the end of a sentence; None if it fits."""
        return None

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model to train; it may be the same object, changed.

        Raises:
            NotApplicable: the model does not support this defense.
        """
        return model

    def on_received(self, received: Tensors, context: HookContext) -> None:
        """Inspect the weights that the client received, before its first step.

        Args:
            received: weights by name.
            context: with the first step, whose batch is the client's own and may be empty; without a local step in a
                Flower mod.

        Raises:
            ClientRefusal: the client does not participate in this round.
        """

    def on_batch(self, batch: Batch, context: HookContext) -> Batch:
        """Return a batch of the same input shape and length; labels may become probabilities of shape (B, K)."""
        return batch

    def loss(self, outputs: Tensor, context: HookContext) -> Tensor | None:
        """Return a scalar that is added to the client's loss, after the forward pass of a step."""
        return None

    def on_examples(self, losses: Callable[[], Tensor], context: HookContext) -> tuple[float, Tensors]:
        """Return the step's mean loss and gradient, replacing the plain loss and gradient.

        Args:
            losses: runs the model on the batch of `here.local`, and returns per-example losses, shape (B,); call it
                once, and only for a nonempty batch.
            context: with the local step.
        """
        raise NotImplementedError

    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the gradient for the optimizer (or, in FedSGD, for the server)."""
        return gradient

    def on_upload(self, update: Update, context: HookContext) -> Update:
        """Return the update that is sent."""
        return update

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion | None:
        """Return the first-order effect on a gradient, or None if undefined.

        Args:
            federation: the federation.
            sent: the sent tensors.
        """
        return None

    @property
    def changes_steps(self) -> bool:
        """Whether it changes the gradient of each local step, rather than the sent update once."""
        return self.overrides("on_gradient") or self.overrides("on_examples")

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return the private mechanism of a client in each round, or None without a guarantee."""
        return None

    def noise_deviation(self, federation: PublicFederation) -> float | None:
        """Return the standard deviation of the private noise on each entry of a client's update.

        None if the defense adds no private noise, or if the deviation differs by entry or is unknown. An attacker that
        knows the defense computes it too.
        """
        return None

    @abstractmethod
    def adaptive_view(self) -> MethodDescription:
        """Return what an attacker that knows the defense's settings knows."""

    @final
    def overrides(self, moment: str) -> bool:
        """Return whether the defense overrides a method."""
        return getattr(type(self), moment) is not getattr(Defense, moment)
