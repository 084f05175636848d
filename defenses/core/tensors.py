"""What defenses share that turn tensors into tensors: of every step's gradient, or once of a client's update."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.hooks import IMAGES_AND_TEXT, Defense, Here
from fedsim.core.types import Config, Modality, Tensors, Update


class TensorConfig(Config):
    """Settings of a defense that turns tensors into tensors."""

    applies: Literal["per_step", "per_update"] = Field(
        default="per_step",
        description="per_step: to every local gradient; per_update: once, to what is sent. With one FedSGD step the "
        "same, with several steps two defenses",
    )


ConfigT = TypeVar("ConfigT", bound=TensorConfig)


class TensorDefense(Defense[ConfigT]):
    """A defense that needs nothing but the tensors. Authors write `changed`."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    @abstractmethod
    def changed(self, tensors: Tensors, here: Here) -> Tensors:
        """Return tensors of the same names and shapes."""

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the changed gradient, or with `per_update` the gradient itself."""
        return self.changed(gradient, here) if self.config.applies == "per_step" else gradient

    def on_upload(self, update: Update, here: Here) -> Update:
        """Return the changed update, or with `per_step` the update itself."""
        if self.config.applies == "per_step":
            return update
        return replace(update, tensors=self.changed(update.tensors, here))


def stochastically_rounded(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return one of the two integers next to each value, whose expectation is the value."""
    below = values.floor()
    drawn = torch.rand(values.shape, generator=generator, dtype=values.dtype)
    return below + (drawn < values - below)
