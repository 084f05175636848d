"""The noise of a defense: stated, or computed from the epsilon that a whole run may cost."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fedsim.core.types import Config
from fedsim.core.types.effects import PrivateNoise
from fedsim.privacy.accounting import noise_multiplier


class Budget(Config):
    """Settings of all defenses with a formal guarantee."""

    noise_multiplier: float | None = Field(
        default=None,
        ge=0,
        description="standard deviation of the noise, in units of clip; 1 where neither this nor target_epsilon is set",
    )
    target_epsilon: float | None = Field(
        default=None,
        gt=0,
        description="epsilon that all rounds may cost a client which takes part in each; replaces noise_multiplier",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="delta at which epsilon is stated")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("noise_multiplier and target_epsilon exclude each other: set one of them")
        return self

    def multiplier(self, sampling_rate: float, steps: int, *, sensitivity: float) -> float:
        """Return the standard deviation of the noise, in units of `clip`.

        Args:
            sampling_rate: probability that the protected unit takes part in a step.
            steps: number of noisy steps in the whole run.
            sensitivity: in units of `clip`; 2 where neighbours replace a unit.
        """
        if self.target_epsilon is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return sensitivity * noise_multiplier(self.target_epsilon, self.delta, sampling_rate, steps)

    @property
    def noise(self) -> tuple[PrivateNoise, ...]:
        """What an attacker that knows the defense knows of its noise; nothing where there is none."""
        if self.target_epsilon is not None:
            return (PrivateNoise("gaussian", epsilon=self.target_epsilon),)
        multiplier = self.multiplier(1.0, 1, sensitivity=1.0)
        return (PrivateNoise("gaussian", multiplier),) if multiplier else ()
