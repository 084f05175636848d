"""Jitter: noise on every column of a row before the model reads it.

    x' = x + s e,  with e standard normal

An attacker who reads x' from a gradient knows x up to s.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from pydantic import Field

from fedsim.core.hooks import Augmentation, HookContext
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, MethodDescription, Modality
from fedsim.core.types.effects import Effect


@dataclass(frozen=True)
class Jittered(Effect):
    """What the model read is off by noise: a row that explains the gradient is not the client's."""

    scale: float


class JitterConfig(Config):
    """Settings of jitter."""

    scale: float = Field(default=0.1, ge=0, le=10, description="standard deviation s, in units of the table")


@final
@component("jitter", summary="noise on the columns of a table")
class Jitter(Augmentation[JitterConfig]):
    """Adds noise to rows."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"numbers"})

    def augment(self, batch: Batch, here: HookContext) -> Batch:
        """Return rows with noise; what stands beside them stays."""
        noise = torch.randn(batch.inputs.shape, generator=here.generator)
        return Batch(batch.inputs + self.config.scale * noise, batch.labels, batch.extra_inputs)

    def public_description(self) -> MethodDescription:
        """Return the noise, if there is any."""
        return MethodDescription("jitter", (Jittered(self.config.scale),) if self.config.scale else ())
