"""Base class of defenses that change only tensors: each step's gradient, or the final update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.hooks import ANYTHING, Defense, HookContext
from fedsim.core.types import Config, Modality, Tensors, Update


class TensorConfig(Config):
    """Settings of a defense that changes tensors only."""

    applies: Literal["per_step", "per_update"] = Field(
        default="per_step",
        description="per_step: to every local gradient; per_update: once, to the update. Equal for a "
        "single FedSGD step, different for several steps",
    )


ConfigT = TypeVar("ConfigT", bound=TensorConfig)


class TensorDefense(Defense[ConfigT]):
    """A defense that changes only tensors. Subclasses implement `change`."""

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @property
    def changes_steps(self) -> bool:
        """Return whether it changes every local gradient."""
        return self.config.applies == "per_step"

    @abstractmethod
    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return tensors of the same names and shapes."""

    def on_gradient(self, gradient: Tensors, context: HookContext) -> Tensors:
        """Return the changed gradient; with `per_update` the gradient unchanged."""
        return self.change(gradient, context) if self.config.applies == "per_step" else gradient

    def on_upload(self, update: Update, context: HookContext) -> Update:
        """Return the changed update; with `per_step` the update unchanged."""
        if self.config.applies == "per_step":
            return update
        return replace(update, tensors=self.change(update.tensors, context))


def stochastically_rounded(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round each value at random to a neighbouring integer, so that the expectation is the value."""
    floor = values.floor()
    uniforms = torch.rand(values.shape, generator=generator, dtype=values.dtype)
    return floor + (uniforms < values - floor)


def rounding_as_noise(tensors: Tensors, step: Callable[[Tensor], Tensor]) -> dict[str, Tensor] | None:
    """Return the standard deviation of stochastic rounding: f (1 - f) step^2 for a fraction f, a sixth in the mean.

    None if a step is wider than the spread of a tensor's entries, since rounding is no noise then. Constant tensors are
    sent unchanged.
    """
    noise: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        width, spread = step(tensor), tensor.std(correction=0)
        if width > spread > 0:
            return None
        noise[name] = tensor.new_ones(tensor.shape) * width / 6**0.5
    return noise
