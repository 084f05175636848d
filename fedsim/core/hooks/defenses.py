"""What a client does to protect its data, and where."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from fedsim.core.hooks.contexts import HookContext, PublicFederation
from fedsim.core.types import Batch, Mechanism, PublicKnowledge, Tensors, Update
from fedsim.core.types.configured import ConfigT, Configured

Place = Literal["received", "batch", "model", "examples", "layers", "norm", "entries", "noise", "rounding"]


PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Distortion:
    """What a defense does to what a gradient tells, to first order, for the ideal attacker (`fedsim.threat.ceiling`).

    Attributes:
        change: from the gradient to what is sent, apart from noise, by operations with a derivative; None: nothing.
        noise: from what `change` returns to the standard deviation of the noise on every entry; None where steps are
            too wide for rounding to be noise. Absent: there is none.
        spread: of noise that is not independent, from what `change` returns and the examples (N, *shape) that it is a
            function of, to U, each (k, *tensor.shape): it has the covariance U U', beside that of `noise`.
        of_examples: in place of `change`, from each example's gradient, shape (B, *parameter.shape).
        reads_sent: whether it was read off what went onto the wire, which does not show one step among several.
    """

    change: Callable[[Tensors], Tensors] | None = None
    noise: Callable[[Tensors], Tensors | None] | None = None
    spread: Callable[[Tensors, Tensor], Tensors] | None = None
    of_examples: Callable[[Tensors], Tensors] | None = None
    reads_sent: bool = False


class Defense(Configured[ConfigT]):
    """Changes what a client computes or sends. Override the moments it needs; the others do nothing.

    Attributes:
        place: where it stands when a scenario has several, the folder that it is in; those of one place keep the
            scenario's order.
        needs_step: whether its moments read `HookContext.local`, which engines that train clients together cannot give.
    """

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = False

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why it does not fit this federation or model, as the end of a sentence, or None when it does."""
        return None

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model to train; it may be the same object, changed.

        Raises:
            NotApplicable: the model has no place for it.
        """
        return model

    def on_received(self, received: Tensors, here: HookContext) -> None:
        """Look at the weights that the client received, before its first step.

        Args:
            received: by name.
            here: with the first step, whose batch is the client's own and may be empty; without one in a mod.

        Raises:
            Refused: the client takes no part in this round.
        """

    def on_batch(self, batch: Batch, here: HookContext) -> Batch:
        """Return a batch of the same input shape and length; labels may become probabilities of shape (B, K)."""
        return batch

    def loss(self, outputs: Tensor, here: HookContext) -> Tensor | None:
        """Return a scalar that is added to the client's loss, after the forward pass of a step."""
        return None

    def on_examples(self, losses: Callable[[], Tensor], here: HookContext) -> tuple[float, Tensors]:
        """Return the step's mean loss and gradient, in place of the plain ones.

        Args:
            losses: runs the model on the batch of `here.local`, and returns each example's loss, shape (B,); call it
                once, and only if the batch has an example.
            here: with the local step.
        """
        raise NotImplementedError

    def on_gradient(self, gradient: Tensors, here: HookContext) -> Tensors:
        """Return the gradient that the optimizer (or, in FedSGD, the server) gets."""
        return gradient

    def on_upload(self, update: Update, here: HookContext) -> Update:
        """Return the update that goes onto the wire."""
        return update

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion | None:
        """Return what it does to what a gradient tells, or None where that is not defined.

        Args:
            federation: of the federation.
            sent: what went onto the wire.
        """
        return None

    @property
    def changes_steps(self) -> bool:
        """Whether it changes the gradient of every local step, rather than once what is sent."""
        return self.overrides("on_gradient") or self.overrides("on_examples")

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return the private mechanism that a client runs in each round, or None when there is no guarantee."""
        return None

    @abstractmethod
    def adaptive_view(self) -> PublicKnowledge:
        """Return what an attacker who knows the defense's description knows."""

    @final
    def overrides(self, moment: str) -> bool:
        """Say whether the defense does anything in a moment, named by its method."""
        return getattr(type(self), moment) is not getattr(Defense, moment)
