"""How much noise a defense adds: stated, or worked out from the epsilon that a whole run may cost."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fedsim.core.types import Config
from fedsim.privacy.accounting import noise_multiplier


class Budget(Config):
    """Settings of every defense with a formal guarantee."""

    noise_multiplier: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="standard deviation of the noise over clip; 1 unless this or target_epsilon is set",
    )
    target_epsilon: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="what all rounds may cost a client that is asked in each, instead of noise_multiplier",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="at which epsilon is stated")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("noise_multiplier and target_epsilon exclude each other: set one of them")
        return self

    def multiplier(self, sampling_rate: float, steps: int, *, sensitivity: float) -> float:
        """Return the standard deviation of the noise over `clip`.

        Args:
            sampling_rate: probability that the protected unit takes part in a step.
            steps: noisy steps in the whole run.
            sensitivity: over `clip`; 2 where neighbours replace a unit.
        """
        if self.target_epsilon is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return sensitivity * noise_multiplier(self.target_epsilon, self.delta, sampling_rate, steps)

    @property
    def facts(self) -> dict[str, float]:
        """What of it is public, for an attacker who knows the defense."""
        if self.target_epsilon is not None:
            return {"target_epsilon": self.target_epsilon}
        return {"noise_multiplier": self.multiplier(1.0, 1, sensitivity=1.0)}
