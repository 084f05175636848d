"""Settings of secure aggregation. Importing this module does not import torch."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from pydantic import Field, model_validator

from fedsim.core.settings import Config

MOST_BITS = 62
_FEWEST_CLIENTS = 2


class SecureQuantisation(Config):
    """How a coordinate becomes an integer."""

    clipping_range: float = Field(
        default=8.0, gt=0, description="coordinates are clipped to [-clipping_range, clipping_range]"
    )
    levels: int = Field(default=2**22, ge=2, le=2**32, description="number of integers for a coordinate")
    modulus_bits: int = Field(
        default=40,
        ge=2,
        le=MOST_BITS,
        description="sums are modulo 2**modulus_bits; every coordinate is sent with this many bits",
    )

    @model_validator(mode="after")
    def _holds_a_sum(self) -> SecureQuantisation:
        if self.max_total_weight < _FEWEST_CLIENTS:
            raise ValueError(
                f"modulus_bits = {self.modulus_bits} cannot hold the sum of two clients with {self.levels} levels. "
                f"Set modulus_bits to at least {bits_for(self.levels, _FEWEST_CLIENTS)}, or lower levels."
            )
        return self

    @property
    def step(self) -> float:
        """The distance of neighbouring levels, which bounds the error of every coordinate of a mean."""
        return 2.0 * self.clipping_range / (self.levels - 1)

    @property
    def max_total_weight(self) -> int:
        """The largest total weight of a cohort with a sum that does not wrap around."""
        return ((1 << self.modulus_bits) - 1) // (self.levels - 1)


class SecureAggregation(SecureQuantisation):
    """How the cohort's updates are summed without showing the server single updates."""

    mode: Literal["ideal", "masked"] = Field(
        default="ideal",
        description="'masked' runs the cryptographic protocol; 'ideal' computes the same integers without it",
    )
    threshold: float = Field(
        default=2 / 3,
        gt=0.5,
        le=1,
        description="share of the cohort, and of every neighbourhood, that must answer, else the round is "
        "aborted; above 1/2, so that two disjoint groups cannot both reconstruct a secret",
    )
    neighbours: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="number of clients with which each client shares masks and secrets (SecAgg+), even; "
        "absent: all others (SecAgg)",
    )

    least_contributors: int = Field(
        default=1,
        ge=1,
        description="an element of the sum is revealed only if at least this number of clients sent a "
        "nonzero value; in 'masked' mode without neighbours",
    )

    @model_validator(mode="after")
    def _all_hold_the_key_of_counts(self) -> SecureAggregation:
        if self.least_contributors > 1 and self.mode == "masked" and self.neighbours is not None:
            raise ValueError(
                f"least_contributors is {self.least_contributors} and neighbours is {self.neighbours}, but mode = "
                "'masked' counts contributors with a key of all clients. Leave out neighbours, or set mode = 'ideal', "
                "which gives the same integers"
            )
        return self

    def survivors_needed(self, cohort: int) -> int:
        """Return how many clients of a cohort of this size must answer at every stage."""
        return self._share_of(cohort)

    def neighbourhood(self, cohort: int) -> int:
        """Return the number of clients that hold shares of a client's secrets, itself included."""
        neighbours = cohort - 1
        return 1 + (neighbours if self.neighbours is None else min(self.neighbours, neighbours))

    def holders_needed(self, cohort: int) -> int:
        """Return how many of a neighbourhood must answer to open a secret: the t of t-of-n sharing."""
        return self._share_of(self.neighbourhood(cohort))

    def _share_of(self, size: int) -> int:
        # Use the decimal number as written, not its binary value: 0.55 of 100 is 55, not 56.
        return math.ceil(Fraction(str(self.threshold)) * size)


def bits_for(levels: int, weight: int) -> int:
    """Return the bits of the largest sum of levels with this total weight."""
    return ((levels - 1) * weight).bit_length()
