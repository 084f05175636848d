"""Base class of client-level differential privacy: clipping, noise, and the mechanism of a round."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, TypeVar

from pydantic import Field

from fedsim.core.hooks import IMAGES_AND_TEXT, Defense, Place, PublicFederation
from fedsim.core.types import Mechanism, Modality
from fedsim.privacy.budget import Budget

PROBE = 3  # examples in the batch that tests the model
_SENSITIVITY = 2.0  # in units of the clipping norm


class ClientBudget(Budget):
    """Settings of client-level differential privacy."""

    clip: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="S: largest norm of an update over all parameters"
    )


ConfigT = TypeVar("ConfigT", bound=ClientBudget)


class ClientLevelDefense(Defense[ConfigT]):
    """A defense with replaced updates as neighbours, which change the released value by at most 2S."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    place: ClassVar[Place] = "noise"

    @property
    @abstractmethod
    def against(self) -> str:
        """The adversaries that the guarantee covers, in words."""

    def mechanism(self, federation: PublicFederation) -> Mechanism | None:
        """Return one Gaussian mechanism per round."""
        multiplier = self.multiplier(federation)
        if not multiplier:
            return None
        return Mechanism(
            unit="client",
            adjacency="replace",
            noise_multiplier=multiplier / _SENSITIVITY,
            sampling_rate=1.0,
            steps=1,
            delta=self.config.delta,
            adversary=self.against,
        )

    def multiplier(self, federation: PublicFederation | None) -> float:
        """Return the standard deviation of the noise in units of S; a budget in the settings covers all rounds."""
        return self.config.multiplier(1.0, 1 if federation is None else federation.rounds, sensitivity=_SENSITIVITY)

    def why_delta_is_large(self, federation: PublicFederation) -> str | None:
        """Return why the guarantee is meaningless at this delta, or None."""
        if self.config.delta * federation.clients < 1:
            return None
        return f"delta is {self.config.delta:g}, expected below 1/{federation.clients}, the number of clients"
